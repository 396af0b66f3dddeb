//! Owns the way from a statement to its plan.

use std::collections::HashMap;

use serde_json::Value;

use super::super::ast::{
    CreateStream, Expr, ExprKind, Field, FieldType, Link, Operator, PathStep, Select, SelectItem, level,
};
use super::super::error::{Position, SqlError, suggestion};
use super::super::like::Pattern;
use super::super::{MAX_HEIGHT, Shown};
use super::aliases::{Aliases, is_meta, is_source, qualified};
use super::columns::ColumnsFound;
use super::{Access, CallSite, Catalog, Like, Node, Operation, Output, Plan, Shape};
use crate::function::{self, value};

pub(super) fn lower(select: &Select, catalog: &dyn Catalog) -> Result<Plan, SqlError> {
    let source = &select.source;
    let Some(stream) = catalog.stream(&source.stream) else {
        return Err(source
            .position
            .error(format_args!("there is no stream {}", Shown(&source.stream))));
    };
    select
        .items
        .iter()
        .flat_map(SelectItem::exprs)
        .chain(&select.filter)
        .try_for_each(check_height)?;
    let aliases = Aliases::of(select)?;
    let used = aliases.used(select);
    let count = aliases.all.len();
    let mut lowering = Lowering {
        select,
        stream,
        fields: stream
            .fields
            .iter()
            .map(|field| (field.name.as_str(), field))
            .collect(),
        catalog,
        aliases,
        places: vec![None; count],
        known: Vec::new(),
        columns: ColumnsFound::default(),
        calls: Vec::new(),
        draws: 0,
    };

    // What is defined by others comes after them, so that their heights and types are known.
    let mut fields: Vec<Option<Node>> = Vec::new();
    fields.resize_with(count, || None);
    let mut shared = Vec::new();
    for index in lowering.aliases.order.clone() {
        let expr = lowering.aliases.all[index].expr;
        let Lowered {
            node,
            integer,
            height,
        } = lowering.expr(expr, Some(index))?;
        fields[index] = Some(node);
        if used[index] {
            let place = shared.len();
            lowering.places[index] = Some(place);
            lowering.known.push((integer, height));
            shared.extend(fields[index].replace(Node::Alias(place)));
        }
    }

    let outputs = lowering.outputs(fields.into_iter().flatten())?;
    let filter = match &select.filter {
        Some(filter) => Some(lowering.expr(filter, None)?.node),
        None => None,
    };
    let shape = Shape::of(&outputs, &lowering.columns);
    let key = |output: &Output| match output {
        Output::Column(place) => format!("{}:", Value::from(lowering.columns.name(*place))),
        Output::Computed { name, .. } => format!("{}:", Value::from(name.as_str())),
        Output::All { .. } => String::new(),
    };
    Ok(Plan {
        shape,
        keys: outputs.iter().map(key).collect(),
        columns: lowering.columns.finish(),
        streams: select.streams().map(str::to_owned).collect(),
        filter,
        outputs,
        aliases: shared,
        calls: lowering.calls,
        explanation: explain(select),
    })
}

/// Everything from here on recurses once per level. Walks with a list of its own, so that this does not.
fn check_height(expr: &Expr) -> Result<(), SqlError> {
    let mut left = vec![(expr, 1)];
    while let Some((expr, depth)) = left.pop() {
        if depth > MAX_HEIGHT {
            let message = format!("this nests deeper than the {MAX_HEIGHT} levels that are allowed");
            return Err(expr.position.error(message));
        }
        left.extend(expr.children().into_iter().map(|child| (child, depth + 1)));
    }
    Ok(())
}

fn explain(select: &Select) -> String {
    let mut lines = vec![format!("source {}", select.source.stream)];
    if let Some(filter) = &select.filter {
        lines.push(format!("filter {filter}"));
    }
    let fields: Vec<String> = select.items.iter().map(ToString::to_string).collect();
    lines.push(format!("project {}", fields.join(", ")));
    lines.join("\n")
}

pub(super) struct Lowered {
    pub(super) node: Node,
    /// Always an integer, by declaration.
    pub(super) integer: bool,
    /// How many calls deep its evaluation goes.
    pub(super) height: usize,
}

impl Lowered {
    pub(super) fn leaf(node: Node) -> Self {
        Self {
            node,
            integer: false,
            height: 1,
        }
    }
}

pub(super) struct Lowering<'a> {
    pub(super) select: &'a Select,
    stream: &'a CreateStream,
    /// The stream's fields by name: there may be as many as names that are looked for.
    fields: HashMap<&'a str, &'a Field>,
    pub(super) catalog: &'a dyn Catalog,
    aliases: Aliases<'a>,
    /// Where a used alias stands in the plan, once it is lowered.
    places: Vec<Option<usize>>,
    /// Is it an integer, and how high is it; by place.
    known: Vec<(bool, usize)>,
    columns: ColumnsFound,
    pub(super) calls: Vec<CallSite>,
    /// How many calls of functions that draw or tell the time there are.
    pub(super) draws: u64,
}

impl<'a> Lowering<'a> {
    /// `aliased`: the fields with an alias, in order.
    fn outputs(&mut self, mut aliased: impl Iterator<Item = Node>) -> Result<Vec<Output>, SqlError> {
        let mut outputs = Vec::new();
        let mut unnamed = 0;
        for item in &self.select.items {
            match item {
                SelectItem::All { except, replace } => {
                    outputs.push(Output::All {
                        except: except.clone(),
                    });
                    for (name, expr) in replace {
                        outputs.push(Output::Computed {
                            name: name.clone(),
                            node: self.expr(expr, None)?.node,
                        });
                    }
                }
                SelectItem::AllOf { stream, position } => {
                    if !is_source(self.select, stream) {
                        return Err(
                            position.error(format_args!("there is no stream {} in FROM", Shown(stream)))
                        );
                    }
                    outputs.push(Output::All { except: Vec::new() });
                }
                SelectItem::Field {
                    alias: Some((name, _)),
                    ..
                } => {
                    outputs.extend(aliased.next().map(|node| Output::Computed {
                        name: name.clone(),
                        node,
                    }));
                }
                SelectItem::Field { expr, alias: None } => {
                    let node = self.expr(expr, None)?.node;
                    let name = name_of(expr).unwrap_or_else(|| {
                        unnamed += 1;
                        format!("kuiper_field_{}", unnamed - 1)
                    });
                    outputs.push(match node {
                        Node::Column(place) if self.columns.name(place) == name => Output::Column(place),
                        node => Output::Computed { name, node },
                    });
                }
            }
        }
        Ok(outputs)
    }

    /// `own`: the alias that is being defined.
    pub(super) fn expr(&mut self, expr: &Expr, own: Option<usize>) -> Result<Lowered, SqlError> {
        let lowered = match &expr.kind {
            ExprKind::Literal(value) => literal(value),
            ExprKind::Name(name) => self.name(name, expr.position, own)?,
            ExprKind::All | ExprKind::AllOf(_) => {
                return Err(expr.position.error(format_args!(
                    "{expr} can only stand as a field of its own or in meta(*)"
                )));
            }
            ExprKind::Path { base, steps } => self.path(base, steps, own)?,
            ExprKind::Call { function, args } => self.call(expr.position, function, args, own)?,
            ExprKind::Chain { first, rest } => self.chain(first, rest, own)?,
            ExprKind::Not(inner) => {
                let inner = self.expr(inner, own)?;
                Lowered {
                    node: Node::Not(Box::new(inner.node)),
                    integer: false,
                    height: inner.height + 1,
                }
            }
            ExprKind::Negate(inner) => {
                let inner = self.expr(inner, own)?;
                Lowered {
                    node: Node::Negate(Box::new(inner.node)),
                    integer: inner.integer,
                    height: inner.height + 1,
                }
            }
            ExprKind::Case {
                operand,
                arms,
                otherwise,
            } => self.case(operand.as_deref(), arms, otherwise.as_deref(), own)?,
        };
        if lowered.height > MAX_HEIGHT {
            let message = "with the aliases that it uses this nests deeper than";
            return Err(expr
                .position
                .error(format_args!("{message} the {MAX_HEIGHT} levels that are allowed")));
        }
        Ok(lowered)
    }

    /// Lowers a part and keeps the greatest height.
    fn part(&mut self, expr: &Expr, own: Option<usize>, height: &mut usize) -> Result<Node, SqlError> {
        let lowered = self.expr(expr, own)?;
        *height = (*height).max(lowered.height);
        Ok(lowered.node)
    }

    pub(super) fn parts(
        &mut self,
        exprs: &[Expr],
        own: Option<usize>,
        height: &mut usize,
    ) -> Result<Vec<Node>, SqlError> {
        exprs.iter().map(|expr| self.part(expr, own, height)).collect()
    }

    fn optional(
        &mut self,
        expr: Option<&Expr>,
        own: Option<usize>,
        height: &mut usize,
    ) -> Result<Option<Node>, SqlError> {
        expr.map(|expr| self.part(expr, own, height)).transpose()
    }

    /// An alias or a column.
    fn name(&mut self, name: &str, position: Position, own: Option<usize>) -> Result<Lowered, SqlError> {
        if let Some(place) = self.aliases.find(name, own).and_then(|index| self.places[index]) {
            let (integer, height) = self.known[place];
            return Ok(Lowered {
                node: Node::Alias(place),
                integer,
                height: height + 1,
            });
        }
        self.column(name, position)
    }

    fn column(&mut self, name: &str, position: Position) -> Result<Lowered, SqlError> {
        let field = self.fields.get(name);
        if field.is_none() && !self.fields.is_empty() {
            let hint = suggestion(name, self.stream.fields.iter().map(|field| field.name.as_str()));
            let stream = &self.stream.name;
            return Err(position.error(format_args!(
                "there is no column {} in stream {stream}{hint}",
                Shown(name)
            )));
        }
        let integer = field.is_some_and(|field| field.ty == FieldType::Bigint);
        Ok(Lowered {
            node: Node::Column(self.columns.add(name)),
            integer,
            height: 1,
        })
    }

    fn path(&mut self, base: &Expr, steps: &[PathStep], own: Option<usize>) -> Result<Lowered, SqlError> {
        let (base, steps) = match qualified(self.select, base, steps) {
            Some((column, steps)) => (self.column(column, base.position)?, steps),
            None => (self.expr(base, own)?, steps),
        };
        self.steps(base, steps, own)
    }

    pub(super) fn steps(
        &mut self,
        base: Lowered,
        steps: &[PathStep],
        own: Option<usize>,
    ) -> Result<Lowered, SqlError> {
        if steps.is_empty() {
            return Ok(base);
        }
        let mut height = base.height;
        let mut accesses = Vec::with_capacity(steps.len());
        for step in steps {
            accesses.push(match step {
                PathStep::Arrow(field) | PathStep::Dot(field) => Access::Field(field.clone()),
                PathStep::Index(index) => Access::Index(self.part(index, own, &mut height)?),
                PathStep::Slice(from, to) => Access::Slice(
                    self.optional(from.as_ref(), own, &mut height)?,
                    self.optional(to.as_ref(), own, &mut height)?,
                ),
            });
        }
        let node = Node::Path {
            base: Box::new(base.node),
            steps: accesses,
        };
        Ok(Lowered {
            node,
            integer: false,
            height: height + 1,
        })
    }

    fn chain(&mut self, first: &Expr, rest: &[Link], own: Option<usize>) -> Result<Lowered, SqlError> {
        let first = self.expr(first, own)?;
        let mut height = first.height;
        if let Some(level @ (level::OR | level::AND)) = rest.first().map(Link::level) {
            let mut nodes = vec![first.node];
            for link in rest {
                if let Link::Binary(_, right) = link {
                    nodes.push(self.part(right, own, &mut height)?);
                }
            }
            let node = if level == level::OR {
                Node::Any(nodes)
            } else {
                Node::Every(nodes)
            };
            return Ok(Lowered {
                node,
                integer: false,
                height: height + 1,
            });
        }
        let mut integer = first.integer;
        let mut operations = Vec::with_capacity(rest.len());
        for link in rest {
            operations.push(match link {
                Link::Binary(operator, right) => {
                    let right = self.expr(right, own)?;
                    height = height.max(right.height);
                    let integers = integer && right.integer;
                    integer = integers && calculates(*operator);
                    Operation::Binary {
                        operator: *operator,
                        integers,
                        right: right.node,
                    }
                }
                Link::InList { negated, list } => Operation::InList {
                    negated: *negated,
                    list: self.parts(list, own, &mut height)?,
                },
                Link::InArray { negated, array } => Operation::InArray {
                    negated: *negated,
                    array: self.part(array, own, &mut height)?,
                },
                Link::Between { negated, low, high } => Operation::Between {
                    negated: *negated,
                    low: self.part(low, own, &mut height)?,
                    high: self.part(high, own, &mut height)?,
                },
                Link::Like { negated, pattern } => {
                    let pattern = match &pattern.kind {
                        ExprKind::Literal(Value::String(text)) => Like::Fixed(Pattern::new(text)),
                        _ => Like::Computed(self.part(pattern, own, &mut height)?),
                    };
                    Operation::Like {
                        negated: *negated,
                        pattern,
                    }
                }
            });
        }
        let node = Node::Operations {
            first: Box::new(first.node),
            rest: operations,
        };
        Ok(Lowered {
            node,
            integer,
            height: height + 1,
        })
    }

    fn case(
        &mut self,
        operand: Option<&Expr>,
        arms: &[(Expr, Expr)],
        otherwise: Option<&Expr>,
        own: Option<usize>,
    ) -> Result<Lowered, SqlError> {
        let mut height = 0;
        let operand = self.optional(operand, own, &mut height)?.map(Box::new);
        let mut lowered = Vec::with_capacity(arms.len());
        for (when, then) in arms {
            lowered.push((
                self.part(when, own, &mut height)?,
                self.part(then, own, &mut height)?,
            ));
        }
        let otherwise = self.optional(otherwise, own, &mut height)?.map(Box::new);
        Ok(Lowered {
            node: Node::Case {
                operand,
                arms: lowered,
                otherwise,
            },
            integer: false,
            height: height + 1,
        })
    }
}

fn calculates(operator: Operator) -> bool {
    matches!(operator.level(), level::ADD | level::MULTIPLY)
}

/// A float whose fraction is zero shows none, but is no integer by declaration.
fn literal(literal: &Value) -> Lowered {
    let float = literal.as_f64().filter(|_| literal.is_f64());
    let node = Node::Literal(float.and_then(value::from_f64).unwrap_or_else(|| literal.clone()));
    Lowered {
        node,
        integer: literal.is_i64(),
        height: 1,
    }
}

/// What a field without an alias is called; `None`: it has no name.
fn name_of(expr: &Expr) -> Option<String> {
    match &expr.kind {
        ExprKind::Name(name) => Some(name.clone()),
        // `stream.column`, and as in eKuiper also `object.field`; anything longer has no name there.
        ExprKind::Path { base, steps } => match (&base.kind, steps.as_slice()) {
            (ExprKind::Name(_), [PathStep::Dot(field)]) => Some(field.clone()),
            _ => None,
        },
        ExprKind::Call { function, .. } if is_meta(function) => Some(String::from("meta")),
        ExprKind::Call { function, .. } => Some(match function::find(function) {
            Some(builtin) => builtin.name.to_owned(),
            None => function.clone(),
        }),
        _ => None,
    }
}
