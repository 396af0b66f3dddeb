//! Owns the grammar of expressions: operators by precedence climbing.

use serde_json::Value;

use super::super::ast::{Expr, ExprKind, Link, Operator, PathStep, level};
use super::super::error::SqlError;
use super::super::token::Token;
use super::Parser;

impl Parser<'_> {
    pub(super) fn expression(&mut self) -> Result<Expr, SqlError> {
        self.operators(level::OR)
    }

    /// An operand and the operators after it that bind at least as tightly as `lowest`.
    fn operators(&mut self, lowest: u8) -> Result<Expr, SqlError> {
        self.enter()?;
        let mut left = self.operand(lowest)?;
        while let Some(link) = self.link(lowest)? {
            left = chain(left, link);
        }
        self.depth -= 1;
        Ok(left)
    }

    /// The next operator with what follows it, if it binds at least as tightly as `lowest`.
    fn link(&mut self, lowest: u8) -> Result<Option<Link>, SqlError> {
        let operator = match self.token {
            Token::Keyword("OR") => Operator::Or,
            Token::Keyword("AND") => Operator::And,
            Token::Symbol("=") => Operator::Equal,
            Token::Symbol("!=" | "<>") => Operator::NotEqual,
            Token::Symbol("<") => Operator::Less,
            Token::Symbol("<=") => Operator::LessOrEqual,
            Token::Symbol(">") => Operator::Greater,
            Token::Symbol(">=") => Operator::GreaterOrEqual,
            Token::Symbol("+") => Operator::Add,
            Token::Symbol("-") => Operator::Subtract,
            Token::Symbol("|") => Operator::BitOr,
            Token::Symbol("^") => Operator::BitXor,
            Token::Symbol("*") => Operator::Multiply,
            Token::Symbol("/") => Operator::Divide,
            Token::Symbol("%") => Operator::Remainder,
            Token::Symbol("&") => Operator::BitAnd,
            Token::Keyword("NOT" | "IN" | "BETWEEN" | "LIKE") if lowest <= level::COMPARE => {
                return self.predicate().map(Some);
            }
            Token::Word(word) if word.eq_ignore_ascii_case("is") => {
                return Err(self.unexpected("an operator; whether a value is null is told by isNull(value)"));
            }
            _ => return Ok(None),
        };
        if operator.level() < lowest {
            return Ok(None);
        }
        self.advance()?;
        Ok(Some(Link::Binary(
            operator,
            self.operators(operator.level() + 1)?,
        )))
    }

    /// `[NOT] IN …`, `[NOT] BETWEEN …`, `[NOT] LIKE …`
    fn predicate(&mut self) -> Result<Link, SqlError> {
        let negated = self.eat_keyword("NOT")?;
        if self.eat_keyword("BETWEEN")? {
            let low = self.operators(level::ADD)?;
            if !self.eat_keyword("AND")? {
                return Err(self.unexpected("AND and the upper bound of BETWEEN"));
            }
            return Ok(Link::Between {
                negated,
                low,
                high: self.operators(level::ADD)?,
            });
        }
        if self.eat_keyword("LIKE")? {
            return Ok(Link::Like {
                negated,
                pattern: self.operators(level::ADD)?,
            });
        }
        if !self.eat_keyword("IN")? {
            return Err(self.unexpected("IN, BETWEEN or LIKE after NOT"));
        }
        if self.eat_symbol("(")? {
            let mut list = vec![self.expression()?];
            while self.eat_symbol(",")? {
                list.push(self.expression()?);
            }
            self.expect_symbol(")", "',' or ')'")?;
            return Ok(Link::InList { negated, list });
        }
        Ok(Link::InArray {
            negated,
            array: self.operators(level::PATH)?,
        })
    }

    fn operand(&mut self, lowest: u8) -> Result<Expr, SqlError> {
        let position = self.at;
        if lowest <= level::NOT && self.eat_keyword("NOT")? {
            let inner = self.operators(level::NOT)?;
            return Ok(Expr {
                position,
                kind: ExprKind::Not(Box::new(inner)),
            });
        }
        if lowest <= level::NEGATE && self.eat_symbol("-")? {
            let inner = self.operators(level::NEGATE)?;
            return Ok(Expr {
                position,
                kind: negate(inner),
            });
        }
        let base = self.base()?;
        self.path(base)
    }

    /// What a path may begin with.
    fn base(&mut self) -> Result<Expr, SqlError> {
        let position = self.at;
        let kind = match &mut self.token {
            Token::Integer(value) => ExprKind::Literal(Value::from(*value)),
            Token::Float(value) => ExprKind::Literal(Value::from(*value)),
            Token::Text(text) => ExprKind::Literal(Value::String(std::mem::take(text))),
            Token::Keyword("TRUE") => ExprKind::Literal(Value::Bool(true)),
            Token::Keyword("FALSE") => ExprKind::Literal(Value::Bool(false)),
            Token::Symbol("*") => ExprKind::All,
            Token::Symbol("(") => {
                self.advance()?;
                let inner = self.expression()?;
                self.expect_symbol(")", "an operator or ')'")?;
                return Ok(inner);
            }
            Token::Keyword("CASE") => {
                self.advance()?;
                return Ok(Expr {
                    position,
                    kind: self.case()?,
                });
            }
            Token::Word(name) | Token::Quoted(name) => {
                let name = (*name).to_owned();
                self.advance()?;
                let kind = if self.eat_symbol("(")? {
                    self.call(name)?
                } else {
                    ExprKind::Name(name)
                };
                return Ok(Expr { position, kind });
            }
            Token::Keyword(keyword) => {
                let hint =
                    format!("an expression; a name that is a keyword stands in backquotes: `{keyword}`");
                return Err(self.unexpected(&hint));
            }
            _ => return Err(self.unexpected("an expression")),
        };
        self.advance()?;
        Ok(Expr { position, kind })
    }

    /// `->field`, `.field`, `[…]` after `base`.
    fn path(&mut self, base: Expr) -> Result<Expr, SqlError> {
        let mut steps = Vec::new();
        loop {
            if self.eat_symbol("->")? {
                steps.push(PathStep::Arrow(self.name("a field's name after '->'")?));
            } else if self.eat_symbol(".")? {
                if let (Token::Symbol("*"), ExprKind::Name(stream), true) =
                    (&self.token, &base.kind, steps.is_empty())
                {
                    let kind = ExprKind::AllOf(stream.clone());
                    self.advance()?;
                    return Ok(Expr {
                        position: base.position,
                        kind,
                    });
                }
                steps.push(PathStep::Dot(self.name("a field's name after '.'")?));
            } else if self.eat_symbol("[")? {
                steps.push(self.bracket()?);
            } else if steps.is_empty() {
                return Ok(base);
            } else {
                return Ok(Expr {
                    position: base.position,
                    kind: ExprKind::Path {
                        base: Box::new(base),
                        steps,
                    },
                });
            }
        }
    }

    /// What follows `[`: an index, or a slice either end of which may be missing.
    fn bracket(&mut self) -> Result<PathStep, SqlError> {
        if self.eat_symbol("]")? {
            return Ok(PathStep::Slice(None, None));
        }
        let from = if self.token == Token::Symbol(":") {
            None
        } else {
            Some(self.expression()?)
        };
        if self.eat_symbol(":")? {
            let to = if self.token == Token::Symbol("]") {
                None
            } else {
                Some(self.expression()?)
            };
            self.expect_symbol("]", "']'")?;
            return Ok(PathStep::Slice(from, to));
        }
        self.expect_symbol("]", "':' or ']'")?;
        from.map(PathStep::Index)
            .ok_or_else(|| self.unexpected("an index"))
    }

    /// What follows `function(`.
    fn call(&mut self, function: String) -> Result<ExprKind, SqlError> {
        let mut args = Vec::new();
        if !self.eat_symbol(")")? {
            args.push(self.expression()?);
            while self.eat_symbol(",")? {
                args.push(self.expression()?);
            }
            self.expect_symbol(")", "',' or ')'")?;
        }
        if let Token::Keyword(keyword @ ("OVER" | "FILTER")) = self.token {
            return Err(self.at.error(format_args!("{keyword} is not supported yet")));
        }
        Ok(ExprKind::Call { function, args })
    }

    /// What follows `CASE`.
    fn case(&mut self) -> Result<ExprKind, SqlError> {
        let operand = if self.token == Token::Keyword("WHEN") {
            None
        } else {
            Some(Box::new(self.expression()?))
        };
        let mut arms = Vec::new();
        while self.eat_keyword("WHEN")? {
            let when = self.expression()?;
            if !self.eat_keyword("THEN")? {
                return Err(self.unexpected("an operator or THEN"));
            }
            arms.push((when, self.expression()?));
        }
        if arms.is_empty() {
            return Err(self.unexpected("an operator or WHEN"));
        }
        let otherwise = if self.eat_keyword("ELSE")? {
            Some(Box::new(self.expression()?))
        } else {
            None
        };
        if !self.eat_keyword("END")? {
            let expected = if otherwise.is_some() {
                "an operator or END"
            } else {
                "an operator, WHEN, ELSE or END"
            };
            return Err(self.unexpected(expected));
        }
        Ok(ExprKind::Case {
            operand,
            arms,
            otherwise,
        })
    }
}

/// `left` and one operator more: in the same chain where the precedence is the same.
fn chain(left: Expr, link: Link) -> Expr {
    let position = left.position;
    let kind = match left.kind {
        ExprKind::Chain { first, mut rest }
            if rest
                .first()
                .is_some_and(|link_before| link_before.level() == link.level()) =>
        {
            rest.push(link);
            ExprKind::Chain { first, rest }
        }
        _ => ExprKind::Chain {
            first: Box::new(left),
            rest: vec![link],
        },
    };
    Expr { position, kind }
}

/// A minus before a number is part of the number.
fn negate(inner: Expr) -> ExprKind {
    if let ExprKind::Literal(Value::Number(number)) = &inner.kind {
        if let Some(negative) = number.as_i64().and_then(i64::checked_neg) {
            return ExprKind::Literal(Value::from(negative));
        }
        if let Some(float) = number.as_f64() {
            return ExprKind::Literal(Value::from(-float));
        }
    }
    ExprKind::Negate(Box::new(inner))
}
