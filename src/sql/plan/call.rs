//! Owns the calls in a plan: which function a name means, and whether it takes these arguments.

use serde_json::Value;

use super::super::Shown;
use super::super::ast::{Expr, ExprKind};
use super::super::error::{Position, SqlError, suggestion};
use super::aliases::{is_meta, qualified};
use super::lower::{Lowered, Lowering};
use super::{CallSite, Node};
use crate::function::{self, Builtin, value};

impl Lowering<'_> {
    pub(super) fn call(
        &mut self,
        at: Position,
        name: &str,
        args: &[Expr],
        own: Option<usize>,
    ) -> Result<Lowered, SqlError> {
        if is_meta(name) {
            return self.meta(at, args, own);
        }
        if let Some(builtin) = function::find(name) {
            return self.builtin(at, builtin, args, own);
        }
        if self.catalog.is_portable_function(name) {
            let site = self.calls.len();
            let shown = args.iter().map(|arg| match &arg.kind {
                ExprKind::Literal(value) => value.clone(),
                _ => Value::String(arg.to_string()),
            });
            let shown = shown.collect();
            self.calls.push(CallSite {
                site,
                function: name.to_owned(),
                args: shown,
            });
            let mut height = 0;
            let args = self.parts(args, own, &mut height)?;
            return Ok(Lowered {
                node: Node::Portable { site, args },
                integer: false,
                height: height + 1,
            });
        }
        Err(match function::unsupported(name) {
            Some(why) => at.error(format_args!("function {name}: {why}")),
            None => {
                let hint = suggestion(name, function::names());
                at.error(format_args!("there is no function {}{hint}", Shown(name)))
            }
        })
    }

    fn builtin(
        &mut self,
        at: Position,
        function: &'static Builtin,
        args: &[Expr],
        own: Option<usize>,
    ) -> Result<Lowered, SqlError> {
        let name = function.name;
        if let Some(expected) = function.refuses_count(args.len()) {
            return Err(at.error(format_args!(
                "function {name} takes {expected}, found {}",
                args.len()
            )));
        }
        for (index, arg) in args.iter().enumerate() {
            if let ExprKind::Literal(literal) = &arg.kind
                && let Some(expected) = function.parameter(index).refuses(literal)
            {
                let found = value::describe(literal);
                let message = format!(
                    "found {found}, expected {expected} as argument {} of {name}",
                    index + 1
                );
                return Err(arg.position.error(message));
            }
        }
        let mut integer = function.integer;
        if let ("cast", Some(ExprKind::Literal(Value::String(ty)))) = (name, args.get(1).map(|arg| &arg.kind))
        {
            if !function::CAST_TYPES.contains(&ty.as_str()) {
                let message = format!(
                    "found {:?}, expected one of {} as type",
                    Shown(ty).to_string(),
                    function::CAST_TYPES.join(", ")
                );
                return Err(args[1].position.error(message));
            }
            integer = ty == "bigint";
        }
        let salt = self.draws;
        self.draws += u64::from(function.is_ambient());
        let mut height = 0;
        let args = self.parts(args, own, &mut height)?;
        Ok(Lowered {
            node: Node::Builtin { function, salt, args },
            integer,
            height: height + 1,
        })
    }

    /// `meta(key)`, `meta(stream.key)`, `meta(key->field)`, `meta(*)`.
    fn meta(&mut self, at: Position, args: &[Expr], own: Option<usize>) -> Result<Lowered, SqlError> {
        let [arg] = args else {
            return Err(at.error(format_args!(
                "function meta takes 1 argument, found {}",
                args.len()
            )));
        };
        match &arg.kind {
            ExprKind::All => Ok(Lowered::leaf(Node::AllMeta)),
            ExprKind::Name(key) => Ok(Lowered::leaf(Node::Meta(key.clone()))),
            ExprKind::Path { base, steps } => {
                let (key, steps) = match (qualified(self.select, base, steps), &base.kind) {
                    (Some((key, steps)), _) => (key, steps),
                    (None, ExprKind::Name(key)) => (key.as_str(), steps.as_slice()),
                    (None, _) => return Err(arg.position.error("expected a key of the metadata in meta(…)")),
                };
                self.steps(Lowered::leaf(Node::Meta(key.to_owned())), steps, own)
            }
            _ => Err(arg.position.error("expected a key of the metadata in meta(…)")),
        }
    }
}
