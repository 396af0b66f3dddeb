//! Owns the grammar of `SELECT`.

use super::super::ast::{Expr, ExprKind, Select, SelectItem, Source};
use super::super::error::SqlError;
use super::super::token::Token;
use super::Parser;

impl Parser<'_> {
    /// What follows SELECT.
    pub(super) fn select(&mut self) -> Result<Select, SqlError> {
        let mut items = vec![self.select_item()?];
        while self.eat_symbol(",")? {
            items.push(self.select_item()?);
        }
        if !self.eat_keyword("FROM")? {
            return Err(self.unexpected("',' or FROM"));
        }
        let source = self.source()?;
        self.refuse_later_clauses()?;
        let filter = if self.eat_keyword("WHERE")? {
            Some(self.expression()?)
        } else {
            None
        };
        self.refuse_later_clauses()?;
        Ok(Select {
            items,
            source,
            filter,
        })
    }

    fn select_item(&mut self) -> Result<SelectItem, SqlError> {
        let expr = self.expression()?;
        let item = match expr.kind {
            ExprKind::All => {
                let (except, replace) = self.except_and_replace()?;
                SelectItem::All { except, replace }
            }
            ExprKind::AllOf(stream) => SelectItem::AllOf {
                stream,
                position: expr.position,
            },
            _ => {
                let alias = if self.eat_keyword("AS")? {
                    let position = self.at;
                    Some((self.name("an alias")?, position))
                } else {
                    None
                };
                return Ok(SelectItem::Field { expr, alias });
            }
        };
        if self.token == Token::Keyword("AS") {
            return Err(self.at.error("* stands for many fields and cannot have an alias"));
        }
        Ok(item)
    }

    /// `[EXCEPT (name, …)] [REPLACE (expression AS name, …)]` in any order.
    #[allow(
        clippy::type_complexity,
        reason = "the two lists of SelectItem::All, used once"
    )]
    fn except_and_replace(&mut self) -> Result<(Vec<String>, Vec<(String, Expr)>), SqlError> {
        let (mut except, mut replace) = (Vec::new(), Vec::new());
        loop {
            if self.eat_keyword("EXCEPT")? {
                self.expect_symbol("(", "'(' after EXCEPT")?;
                except.push(self.name("a column's name")?);
                while self.eat_symbol(",")? {
                    except.push(self.name("a column's name")?);
                }
                self.expect_symbol(")", "',' or ')'")?;
            } else if self.eat_keyword("REPLACE")? {
                self.expect_symbol("(", "'(' after REPLACE")?;
                replace.push(self.replacement()?);
                while self.eat_symbol(",")? {
                    replace.push(self.replacement()?);
                }
                self.expect_symbol(")", "',' or ')'")?;
            } else {
                return Ok((except, replace));
            }
        }
    }

    fn replacement(&mut self) -> Result<(String, Expr), SqlError> {
        let expr = self.expression()?;
        if !self.eat_keyword("AS")? {
            return Err(self.unexpected("AS and the name of the column to replace"));
        }
        Ok((self.name("the name of the column to replace")?, expr))
    }

    /// What follows FROM. As in eKuiper a stream may be called like an MQTT topic, such as `topic/sensor1`.
    fn source(&mut self) -> Result<Source, SqlError> {
        let position = self.at;
        let mut stream = self.name("a stream's name")?;
        while let Token::Symbol(symbol @ ("/" | "+" | "#")) = self.token {
            self.advance()?;
            stream.push_str(symbol);
            if let Token::Word(name) | Token::Quoted(name) = self.token {
                self.advance()?;
                stream.push_str(name);
            }
        }
        let alias = if self.eat_keyword("AS")? {
            Some(self.name("an alias")?)
        } else {
            None
        };
        Ok(Source {
            stream,
            alias,
            position,
        })
    }

    /// What belongs to joins, windows and groups says so instead of being a mere syntax error.
    fn refuse_later_clauses(&self) -> Result<(), SqlError> {
        let what = match self.token {
            Token::Symbol(",") => "more than one stream in FROM is",
            Token::Keyword("INNER" | "LEFT" | "RIGHT" | "FULL" | "CROSS" | "JOIN") => "JOIN is",
            Token::Keyword("GROUP") => "GROUP BY and windows are",
            Token::Keyword("HAVING") => "HAVING is",
            Token::Keyword("ORDER") => "ORDER BY is",
            Token::Keyword("LIMIT") => "LIMIT is",
            Token::Keyword("WHERE") | Token::Symbol(";") | Token::End => return Ok(()),
            _ => return Err(self.unexpected("WHERE or the end of the statement")),
        };
        Err(self.at.error(format_args!("{what} not supported yet")))
    }
}
