//! Owns the tokens: SQL text in, one token with its place out, or an error. It knows no grammar; the parser drives it.

use std::fmt;

use super::error::{Position, Shown, SqlError};

/// Words that name nothing unless they stand in backquotes, as in eKuiper.
const RESERVED: &[&str] = &[
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CROSS",
    "DEFAULT",
    "DESC",
    "ELSE",
    "END",
    "EXCEPT",
    "FALSE",
    "FILTER",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "IN",
    "INNER",
    "INVISIBLE",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "REPLACE",
    "RIGHT",
    "SELECT",
    "THEN",
    "TRUE",
    "WHEN",
    "WHERE",
];

/// Longer ones first: the longest that fits is taken.
const SYMBOLS: &[&str] = &[
    "->", "!=", "<>", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "&", "|", "^", ",", "(", ")", "[",
    "]", ":", ";", ".", "#",
];

/// The smallest part of an SQL text that means something.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A name, or a word that is a keyword in some places only, such as `STREAM`.
    Word(&'a str),
    /// A name in backquotes: never a keyword.
    Quoted(&'a str),
    /// A reserved word, in capitals.
    Keyword(&'static str),
    /// `"text"` or `'text'`, its escapes resolved.
    Text(String),
    Integer(i64),
    Float(f64),
    Symbol(&'static str),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "{}", Shown(word)),
            Self::Quoted(name) => write!(f, "`{}`", Shown(name)),
            Self::Keyword(keyword) => write!(f, "the keyword {keyword}"),
            Self::Text(text) => write!(f, "\"{}\"", Shown(&text.escape_debug().to_string())),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Symbol(symbol) => write!(f, "'{symbol}'"),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

/// Cuts a text into tokens.
pub(super) struct Lexer<'a> {
    rest: &'a str,
    at: Position,
    /// Where the last token ends: what is missing at the end of a text is missing there, not after blank lines.
    last_end: Position,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            at: Position::START,
            last_end: Position::START,
        }
    }

    /// The next token and where it begins; [`Token::End`] again and again at the end.
    pub(super) fn next(&mut self) -> Result<(Position, Token<'a>), SqlError> {
        self.skip_blanks()?;
        let at = self.at;
        let Some(first) = self.rest.chars().next() else {
            return Ok((self.last_end, Token::End));
        };
        let second_is_digit = self.rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        let token = match first {
            '"' | '\'' => Token::Text(self.text(first)?),
            '`' => self.quoted()?,
            _ if first.is_ascii_digit() || (first == '.' && second_is_digit) => self.number()?,
            _ if first.is_alphabetic() || first == '_' => self.word(),
            _ => {
                let symbol = SYMBOLS.iter().find(|symbol| self.rest.starts_with(**symbol));
                let symbol = symbol
                    .ok_or_else(|| at.error(format_args!("found {first:?}, which SQL has no use for")))?;
                self.take(symbol.len());
                Token::Symbol(symbol)
            }
        };
        self.last_end = self.at;
        Ok((at, token))
    }

    /// Moves over `length` bytes.
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        match taken.rfind('\n') {
            Some(newline) => {
                self.at.line += taken.matches('\n').count();
                self.at.column = taken[newline..].chars().count();
            }
            None => self.at.column += taken.chars().count(),
        }
        taken
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let length = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        self.take(length)
    }

    /// White space and comments.
    fn skip_blanks(&mut self) -> Result<(), SqlError> {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest.starts_with("--") {
                self.take_while(|c| c != '\n');
            } else if self.rest.starts_with("/*") {
                let end = self.rest[2..].find("*/");
                let end = end.ok_or_else(|| self.at.error("this comment has no end, expected */"))?;
                self.take(end + 4);
            } else {
                return Ok(());
            }
        }
    }

    fn word(&mut self) -> Token<'a> {
        let word = self.take_while(|c| c.is_alphanumeric() || c == '_');
        match RESERVED
            .iter()
            .find(|reserved| reserved.eq_ignore_ascii_case(word))
        {
            Some(keyword) => Token::Keyword(keyword),
            None => Token::Word(word),
        }
    }

    fn quoted(&mut self) -> Result<Token<'a>, SqlError> {
        let at = self.at;
        match self.rest[1..].find('`') {
            None => Err(at.error("this name has no end, expected `")),
            Some(0) => Err(at.error("found an empty name")),
            Some(length) => Ok(Token::Quoted(&self.take(length + 2)[1..=length])),
        }
    }

    fn number(&mut self) -> Result<Token<'a>, SqlError> {
        let at = self.at;
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let text = self.rest;
        let mut end = digits(text);
        let mut whole = true;
        if text[end..].starts_with('.') {
            whole = false;
            end += 1 + digits(&text[end + 1..]);
        }
        if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let count = digits(&exponent[sign..]);
            if count > 0 {
                whole = false;
                end += 1 + sign + count;
            }
        }
        if text[end..].starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.') {
            let all = self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '.');
            return Err(at.error(format_args!(
                "found {}, which is neither a number nor a name",
                Shown(all)
            )));
        }
        let text = self.take(end);
        if whole {
            let value = text.parse().map_err(|_| {
                at.error(format_args!(
                    "found {}, expected an integer of at most {}",
                    Shown(text),
                    i64::MAX
                ))
            })?;
            return Ok(Token::Integer(value));
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Token::Float(value)),
            _ => Err(at.error(format_args!(
                "found {}, which is no number that fits 64 bits",
                Shown(text)
            ))),
        }
    }

    fn text(&mut self, quote: char) -> Result<String, SqlError> {
        let start = self.at;
        self.take(1);
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| c != quote && c != '\\'));
            if self.rest.is_empty() {
                return Err(start.error(format_args!("this text has no end, expected {quote}")));
            }
            if self.rest.starts_with(quote) {
                self.take(1);
                return Ok(text);
            }
            text.push(self.escape()?);
        }
    }

    /// One of Go's escapes, which eKuiper's texts have.
    fn escape(&mut self) -> Result<char, SqlError> {
        let at = self.at;
        self.take(1);
        let Some(letter) = self.rest.chars().next() else {
            return Err(at.error("found a lone backslash at the end of the text"));
        };
        self.take(letter.len_utf8());
        let digits = match letter {
            'a' => return Ok('\x07'),
            'b' => return Ok('\x08'),
            'f' => return Ok('\x0c'),
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'v' => return Ok('\x0b'),
            '\\' | '\'' | '"' => return Ok(letter),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => {
                return Err(at.error(format_args!(
                    "found the escape \\{}, expected one of \\a \\b \\f \\n \\r \\t \\v \\\\ \\' \\\" \\x \\u \\U",
                    letter.escape_debug()
                )));
            }
        };
        let hex = self
            .rest
            .get(..digits)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let character = hex
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .and_then(char::from_u32)
            .ok_or_else(|| {
                at.error(format_args!(
                    "expected {digits} hexadecimal digits of a character after \\{letter}"
                ))
            })?;
        self.take(digits);
        Ok(character)
    }
}

/// `name` as SQL text: in backquotes where it could not stand alone.
pub(super) fn name_as_sql(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let mut characters = name.chars();
    let plain = characters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && characters.all(|c| c.is_alphanumeric() || c == '_')
        && !RESERVED
            .iter()
            .any(|reserved| reserved.eq_ignore_ascii_case(name));
    if plain {
        f.write_str(name)
    } else {
        write!(f, "`{name}`")
    }
}

/// `text` as an SQL literal.
pub(super) fn text_as_sql(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Vec<Token<'_>>, SqlError> {
        let mut lexer = Lexer::new(text);
        let mut tokens = Vec::new();
        loop {
            match lexer.next()? {
                (_, Token::End) => return Ok(tokens),
                (_, token) => tokens.push(token),
            }
        }
    }

    #[test]
    fn every_kind_of_token() {
        use Token::{Float, Integer, Keyword, Quoted, Symbol, Text, Word};
        let cases: &[(&str, &[Token<'_>])] = &[
            ("", &[]),
            ("select From", &[Keyword("SELECT"), Keyword("FROM")]),
            (
                "a1 _b straße `a-b` `select`",
                &[
                    Word("a1"),
                    Word("_b"),
                    Word("straße"),
                    Quoted("a-b"),
                    Quoted("select"),
                ],
            ),
            (
                "1 0.5 .5 2. 1e3 1.5E-2",
                &[
                    Integer(1),
                    Float(0.5),
                    Float(0.5),
                    Float(2.0),
                    Float(1000.0),
                    Float(0.015),
                ],
            ),
            (
                r#""a\"b" 'it\'s' "it's" "\x41é\n""#,
                &[
                    Text("a\"b".into()),
                    Text("it's".into()),
                    Text("it's".into()),
                    Text("Aé\n".into()),
                ],
            ),
            ("a->b", &[Word("a"), Symbol("->"), Word("b")]),
            (
                "a.b[0:1]",
                &[
                    Word("a"),
                    Symbol("."),
                    Word("b"),
                    Symbol("["),
                    Integer(0),
                    Symbol(":"),
                    Integer(1),
                    Symbol("]"),
                ],
            ),
            (
                "<= <> != >= < > =",
                &[
                    Symbol("<="),
                    Symbol("<>"),
                    Symbol("!="),
                    Symbol(">="),
                    Symbol("<"),
                    Symbol(">"),
                    Symbol("="),
                ],
            ),
            (
                "1 -- a comment\n 2 /* another\n **/ 3 -- last",
                &[Integer(1), Integer(2), Integer(3)],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(&tokens(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn every_broken_token_names_its_place() {
        let cases = [
            ("a ?", "at line 1, column 3: found '?', which SQL has no use for"),
            (
                "\n  'abc",
                "at line 2, column 3: this text has no end, expected '",
            ),
            ("`abc", "at line 1, column 1: this name has no end, expected `"),
            ("``", "at line 1, column 1: found an empty name"),
            (
                "ä /* x",
                "at line 1, column 3: this comment has no end, expected */",
            ),
            (
                "12ab",
                "at line 1, column 1: found 12ab, which is neither a number nor a name",
            ),
            (
                "1.2.3",
                "at line 1, column 1: found 1.2.3, which is neither a number nor a name",
            ),
            (
                "9223372036854775808",
                "at line 1, column 1: found 9223372036854775808, expected an integer of at most 9223372036854775807",
            ),
            (
                "1e999",
                "at line 1, column 1: found 1e999, which is no number that fits 64 bits",
            ),
            (
                r#""\ud800""#,
                r"at line 1, column 2: expected 4 hexadecimal digits of a character after \u",
            ),
            (
                r#""\x4""#,
                r"at line 1, column 2: expected 2 hexadecimal digits of a character after \x",
            ),
            (
                "\"\\",
                "at line 1, column 2: found a lone backslash at the end of the text",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(tokens(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn places_count_lines_and_characters() {
        let mut lexer = Lexer::new("ä `ü\nö` x");
        let mut places = Vec::new();
        for _ in 0..4 {
            let (at, _) = lexer.next().unwrap();
            places.push((at.line, at.column));
        }
        assert_eq!(places, [(1, 1), (1, 3), (2, 4), (2, 5)]);
    }
}
