//! Owns the grammar of statements: text in, [`Statement`] out. It knows no stream and no function.
//!
//! A descent with one token of look-ahead. The text's length and the depth of nesting are bounded, and what may be
//! long without being nested (operators, paths, lists) is read in loops: no text can exhaust the stack.

mod create;
mod expression;
mod select;

use super::ast::Statement;
use super::error::{Position, SqlError};
use super::token::{Lexer, Token};
use super::{MAX_NESTING, MAX_TEXT};

/// Reads one statement; a `;` may end it.
///
/// # Errors
/// The text is longer than [`MAX_TEXT`] bytes, nests deeper than [`MAX_NESTING`], or is no statement that is
/// supported; the error names the first place that is wrong.
pub fn parse(text: &str) -> Result<Statement, SqlError> {
    if text.len() > MAX_TEXT {
        let message = format!(
            "the text has {} bytes, more than the {MAX_TEXT} that are allowed",
            text.len()
        );
        return Err(Position::START.error(message));
    }
    let mut parser = Parser::new(text)?;
    let statement = parser.statement()?;
    parser.eat_symbol(";")?;
    match parser.token {
        Token::End => Ok(statement),
        _ => Err(parser.unexpected("the end of the statement")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token that is looked at, not yet taken.
    token: Token<'a>,
    /// Where that token begins.
    at: Position,
    /// How many nested expressions or types are being read.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, SqlError> {
        let mut lexer = Lexer::new(text);
        let (at, token) = lexer.next()?;
        Ok(Self {
            lexer,
            token,
            at,
            depth: 0,
        })
    }

    fn statement(&mut self) -> Result<Statement, SqlError> {
        if self.eat_keyword("SELECT")? {
            return Ok(Statement::Select(self.select()?));
        }
        if self.eat_word("CREATE")? {
            self.stream_or_table("STREAM")?;
            return Ok(Statement::CreateStream(Box::new(self.create_stream()?)));
        }
        if self.eat_word("SHOW")? {
            self.stream_or_table("STREAMS")?;
            return Ok(Statement::ShowStreams);
        }
        if self.eat_word("DESCRIBE")? {
            self.stream_or_table("STREAM")?;
            return Ok(Statement::DescribeStream(self.name("a stream's name")?));
        }
        if self.eat_word("DROP")? {
            self.stream_or_table("STREAM")?;
            return Ok(Statement::DropStream(self.name("a stream's name")?));
        }
        Err(self.unexpected("SELECT, CREATE STREAM, SHOW STREAMS, DESCRIBE STREAM or DROP STREAM"))
    }

    fn stream_or_table(&mut self, stream: &'static str) -> Result<(), SqlError> {
        if self.eat_word(stream)? {
            return Ok(());
        }
        if matches!(self.token, Token::Word(word) if word.eq_ignore_ascii_case("table") || word.eq_ignore_ascii_case("tables"))
        {
            return Err(self
                .at
                .error(format_args!("tables are not supported yet, expected {stream}")));
        }
        Err(self.unexpected(stream))
    }

    /// Takes the token that is looked at.
    fn advance(&mut self) -> Result<Token<'a>, SqlError> {
        let (at, token) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn eat_symbol(&mut self, symbol: &'static str) -> Result<bool, SqlError> {
        self.eat(|token| *token == Token::Symbol(symbol))
    }

    fn eat_keyword(&mut self, keyword: &'static str) -> Result<bool, SqlError> {
        self.eat(|token| *token == Token::Keyword(keyword))
    }

    /// Takes a word that is a keyword in this place only.
    fn eat_word(&mut self, word: &'static str) -> Result<bool, SqlError> {
        self.eat(|token| matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word)))
    }

    fn eat(&mut self, wanted: impl Fn(&Token<'a>) -> bool) -> Result<bool, SqlError> {
        let found = wanted(&self.token);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect_symbol(&mut self, symbol: &'static str, expected: &str) -> Result<(), SqlError> {
        if self.eat_symbol(symbol)? {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    fn name(&mut self, expected: &str) -> Result<String, SqlError> {
        match self.token {
            Token::Word(name) | Token::Quoted(name) => {
                self.advance()?;
                Ok(name.to_owned())
            }
            Token::Keyword(keyword) => {
                let hint = format!("{expected}; a name that is a keyword stands in backquotes: `{keyword}`");
                Err(self.unexpected(&hint))
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    fn unexpected(&self, expected: &str) -> SqlError {
        self.at
            .error(format_args!("found {}, expected {expected}", self.token))
    }

    /// One level deeper; every success is followed by `self.depth -= 1`.
    fn enter(&mut self) -> Result<(), SqlError> {
        if self.depth == MAX_NESTING {
            return Err(self.at.error(format_args!(
                "this is nested deeper than the {MAX_NESTING} levels that are allowed"
            )));
        }
        self.depth += 1;
        Ok(())
    }
}
