//! Owns how expressions look as SQL text again: what it writes reads back as the same expression.

use std::fmt;

use serde_json::Value;

use super::ast::{Expr, ExprKind, Link, PathStep, Select, SelectItem, level};
use super::token::{name_as_sql, text_as_sql};

impl ExprKind {
    fn level(&self) -> u8 {
        match self {
            Self::Chain { rest, .. } => rest.first().map_or(level::PATH, Link::level),
            Self::Not(_) => level::NOT,
            Self::Negate(_) => level::NEGATE,
            // A minus is an operator, also before a literal.
            Self::Literal(Value::Number(number)) if number.as_f64().is_some_and(f64::is_sign_negative) => {
                level::NEGATE
            }
            _ => level::PATH,
        }
    }
}

/// `expr` where only what binds at least as tightly as `lowest` may stand without parentheses.
fn within(f: &mut fmt::Formatter<'_>, expr: &Expr, lowest: u8) -> fmt::Result {
    if expr.kind.level() < lowest {
        write!(f, "({expr})")
    } else {
        write!(f, "{expr}")
    }
}

fn list<'a, T: 'a>(
    f: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = &'a T>,
    mut item: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, each) in items.into_iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        item(f, each)?;
    }
    Ok(())
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Literal(Value::String(text)) => text_as_sql(f, text),
            ExprKind::Literal(value) => write!(f, "{value}"),
            ExprKind::Name(name) => name_as_sql(f, name),
            ExprKind::All => f.write_str("*"),
            ExprKind::AllOf(stream) => {
                name_as_sql(f, stream)?;
                f.write_str(".*")
            }
            ExprKind::Path { base, steps } => {
                within(f, base, level::PATH)?;
                steps.iter().try_for_each(|step| write!(f, "{step}"))
            }
            ExprKind::Call { function, args } => {
                name_as_sql(f, function)?;
                f.write_str("(")?;
                list(f, args, |f, arg| write!(f, "{arg}"))?;
                f.write_str(")")
            }
            ExprKind::Chain { first, rest } => {
                within(f, first, self.kind.level())?;
                rest.iter().try_for_each(|link| write!(f, " {link}"))
            }
            ExprKind::Not(inner) => {
                f.write_str("NOT ")?;
                within(f, inner, level::NOT)
            }
            ExprKind::Negate(inner) => {
                // Never `--`, which begins a comment.
                f.write_str("-")?;
                within(f, inner, level::PATH)
            }
            ExprKind::Case {
                operand,
                arms,
                otherwise,
            } => {
                f.write_str("CASE")?;
                if let Some(operand) = operand {
                    write!(f, " {operand}")?;
                }
                for (when, then) in arms {
                    write!(f, " WHEN {when} THEN {then}")?;
                }
                if let Some(otherwise) = otherwise {
                    write!(f, " ELSE {otherwise}")?;
                }
                f.write_str(" END")
            }
        }
    }
}

impl fmt::Display for PathStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrow(field) => {
                f.write_str("->")?;
                name_as_sql(f, field)
            }
            Self::Dot(field) => {
                f.write_str(".")?;
                name_as_sql(f, field)
            }
            Self::Index(index) => write!(f, "[{index}]"),
            Self::Slice(from, to) => {
                f.write_str("[")?;
                from.iter().try_for_each(|from| write!(f, "{from}"))?;
                f.write_str(":")?;
                to.iter().try_for_each(|to| write!(f, "{to}"))?;
                f.write_str("]")
            }
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: &bool| if *negated { "NOT " } else { "" };
        match self {
            Self::Binary(operator, right) => {
                write!(f, "{} ", operator.symbol())?;
                within(f, right, operator.level() + 1)
            }
            Self::InList {
                negated,
                list: values,
            } => {
                write!(f, "{}IN (", not(negated))?;
                list(f, values, |f, value| write!(f, "{value}"))?;
                f.write_str(")")
            }
            Self::InArray { negated, array } => {
                write!(f, "{}IN {array}", not(negated))
            }
            Self::Between { negated, low, high } => {
                write!(f, "{}BETWEEN ", not(negated))?;
                within(f, low, level::ADD)?;
                f.write_str(" AND ")?;
                within(f, high, level::ADD)
            }
            Self::Like { negated, pattern } => {
                write!(f, "{}LIKE ", not(negated))?;
                within(f, pattern, level::ADD)
            }
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SELECT ")?;
        list(f, &self.items, |f, item| write!(f, "{item}"))?;
        f.write_str(" FROM ")?;
        name_as_sql(f, &self.source.stream)?;
        if let Some(alias) = &self.source.alias {
            f.write_str(" AS ")?;
            name_as_sql(f, alias)?;
        }
        match &self.filter {
            Some(filter) => write!(f, " WHERE {filter}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for SelectItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All { except, replace } => {
                f.write_str("*")?;
                if !except.is_empty() {
                    f.write_str(" EXCEPT (")?;
                    list(f, except, |f, name| name_as_sql(f, name))?;
                    f.write_str(")")?;
                }
                if !replace.is_empty() {
                    f.write_str(" REPLACE (")?;
                    list(f, replace, |f, (name, expr)| {
                        write!(f, "{expr} AS ")?;
                        name_as_sql(f, name)
                    })?;
                    f.write_str(")")?;
                }
                Ok(())
            }
            Self::AllOf { stream, .. } => {
                name_as_sql(f, stream)?;
                f.write_str(".*")
            }
            Self::Field { expr, alias } => {
                write!(f, "{expr}")?;
                match alias {
                    Some((name, _)) => {
                        f.write_str(" AS ")?;
                        name_as_sql(f, name)
                    }
                    None => Ok(()),
                }
            }
        }
    }
}
