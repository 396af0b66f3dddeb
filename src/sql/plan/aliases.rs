//! Owns which alias refers to which: an order in which each comes after those that it refers to, or the cycle.

use std::collections::HashMap;

use super::super::ast::{Expr, ExprKind, PathStep, Select, SelectItem};
use super::super::error::{Position, SqlError};

/// An alias of a statement.
pub(super) struct Alias<'a> {
    pub(super) name: &'a str,
    pub(super) expr: &'a Expr,
    position: Position,
    /// The other aliases that its expression refers to.
    refers_to: Vec<usize>,
}

/// The aliases of a statement.
pub(super) struct Aliases<'a> {
    pub(super) all: Vec<Alias<'a>>,
    by_name: HashMap<&'a str, usize>,
    /// Each after those that it refers to.
    pub(super) order: Vec<usize>,
}

impl<'a> Aliases<'a> {
    pub(super) fn of(select: &'a Select) -> Result<Self, SqlError> {
        let mut all = Vec::new();
        let mut by_name = HashMap::new();
        for item in &select.items {
            if let SelectItem::Field {
                expr,
                alias: Some((name, position)),
            } = item
            {
                if by_name.insert(name.as_str(), all.len()).is_some() {
                    return Err(position.error(format_args!("the alias {name} is defined twice")));
                }
                all.push(Alias {
                    name,
                    expr,
                    position: *position,
                    refers_to: Vec::new(),
                });
            }
        }
        let mut aliases = Self {
            all,
            by_name,
            order: Vec::new(),
        };
        for index in 0..aliases.all.len() {
            aliases.all[index].refers_to = aliases.references(select, aliases.all[index].expr, Some(index));
        }
        aliases.order = aliases.sorted()?;
        Ok(aliases)
    }

    /// The alias that `name` means in the expression of alias `own`: there its own name is a column.
    pub(super) fn find(&self, name: &str, own: Option<usize>) -> Option<usize> {
        self.by_name
            .get(name)
            .copied()
            .filter(|found| Some(*found) != own)
    }

    /// Which aliases are used anywhere but as a field of the result.
    pub(super) fn used(&self, select: &'a Select) -> Vec<bool> {
        let mut used = vec![false; self.all.len()];
        let unnamed = select
            .items
            .iter()
            .filter(|item| !matches!(item, SelectItem::Field { alias: Some(_), .. }));
        let elsewhere = unnamed.flat_map(SelectItem::exprs);
        let elsewhere = elsewhere
            .chain(&select.filter)
            .flat_map(|expr| self.references(select, expr, None));
        for index in elsewhere.chain(self.all.iter().flat_map(|alias| alias.refers_to.iter().copied())) {
            used[index] = true;
        }
        used
    }

    /// The aliases in an expression. Walks with a list of its own: the expression may be high.
    fn references(&self, select: &Select, expr: &Expr, own: Option<usize>) -> Vec<usize> {
        let mut found = Vec::new();
        let mut left = vec![expr];
        while let Some(expr) = left.pop() {
            match &expr.kind {
                ExprKind::Name(name) => found.extend(self.find(name, own)),
                // Its argument begins with a key, not with a column.
                ExprKind::Call { function, args } if is_meta(function) => {
                    let paths = args
                        .iter()
                        .filter(|arg| matches!(arg.kind, ExprKind::Path { .. }));
                    left.extend(paths.flat_map(|path| path.children().into_iter().skip(1)));
                }
                ExprKind::Path { base, steps } if qualified(select, base, steps).is_some() => {
                    left.extend(expr.children().into_iter().skip(1));
                }
                _ => left.extend(expr.children()),
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Takes, again and again, what refers to nothing that is still there.
    fn sorted(&self) -> Result<Vec<usize>, SqlError> {
        let mut waits_for: Vec<usize> = self.all.iter().map(|alias| alias.refers_to.len()).collect();
        let mut referred_by = vec![Vec::new(); self.all.len()];
        for (index, alias) in self.all.iter().enumerate() {
            for referred in &alias.refers_to {
                referred_by[*referred].push(index);
            }
        }
        let mut order: Vec<usize> = (0..self.all.len())
            .filter(|index| waits_for[*index] == 0)
            .collect();
        let mut next = 0;
        while let Some(index) = order.get(next).copied() {
            next += 1;
            for waiting in &referred_by[index] {
                waits_for[*waiting] -= 1;
                if waits_for[*waiting] == 0 {
                    order.push(*waiting);
                }
            }
        }
        match (0..self.all.len()).find(|index| waits_for[*index] > 0) {
            None => Ok(order),
            Some(waiting) => Err(self.cycle(waiting, &waits_for)),
        }
    }

    /// Everything that waits waits for something that waits: going on from there leads around a cycle.
    fn cycle(&self, waiting: usize, waits_for: &[usize]) -> SqlError {
        let mut path = Vec::new();
        let mut place_in_path = vec![None; self.all.len()];
        let mut index = waiting;
        while place_in_path[index].is_none() {
            place_in_path[index] = Some(path.len());
            path.push(index);
            let refers_to = &self.all[index].refers_to;
            index = refers_to
                .iter()
                .copied()
                .find(|other| waits_for[*other] > 0)
                .unwrap_or(index);
        }
        let cycle = &path[place_in_path[index].unwrap_or(0)..];
        // A cycle may be as long as the text.
        const SHOWN: usize = 8;
        let mut names: Vec<&str> = cycle
            .iter()
            .take(SHOWN)
            .map(|index| self.all[*index].name)
            .collect();
        names.push(if cycle.len() > SHOWN {
            "…"
        } else {
            self.all[index].name
        });
        self.all[index].position.error(format_args!(
            "aliases are defined by each other: {}",
            names.join(" → ")
        ))
    }
}

pub(super) fn is_meta(function: &str) -> bool {
    function.eq_ignore_ascii_case("meta")
}

/// `stream.column…`: the column and the steps after it.
pub(super) fn qualified<'a>(
    select: &Select,
    base: &Expr,
    steps: &'a [PathStep],
) -> Option<(&'a str, &'a [PathStep])> {
    match (&base.kind, steps) {
        (ExprKind::Name(name), [PathStep::Dot(column), rest @ ..]) if is_source(select, name) => {
            Some((column, rest))
        }
        _ => None,
    }
}

/// Is it the name or the alias of the stream in FROM?
pub(super) fn is_source(select: &Select, name: &str) -> bool {
    select.source.stream == name || select.source.alias.as_deref() == Some(name)
}
