//! Owns which fields of a message a plan looks at, so that whoever has the message as text need not read the others.

use super::{Access, Like, Node, Operation, Output};

/// The fields of a message that a plan looks at.
#[derive(Debug)]
pub(super) enum Columns {
    All,
    /// In order.
    Some(Vec<String>),
}

impl Columns {
    /// Those of the nodes, and those of the outputs.
    pub(super) fn of<'a>(nodes: impl Iterator<Item = &'a Node>, outputs: &'a [Output]) -> Self {
        let mut names = Vec::new();
        let mut open: Vec<&Node> = nodes.collect();
        for output in outputs {
            match output {
                Output::Column(name) => names.push(name.clone()),
                // The whole message is passed on as it is.
                Output::All { .. } if is_message(outputs) => {}
                Output::All { .. } => return Self::All,
                Output::Computed { node, .. } => open.push(node),
            }
        }
        // A list of its own instead of recursion, as everywhere that nodes are walked.
        while let Some(node) = open.pop() {
            match node {
                Node::Column(name) => names.push(name.clone()),
                node => push_children(node, &mut open),
            }
        }
        names.sort_unstable();
        names.dedup();
        Self::Some(names)
    }

    pub(super) fn contain(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.binary_search_by(|known| known.as_str().cmp(name)).is_ok(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Some(names) if names.is_empty())
    }
}

/// Whether the result is the message, no more and no less.
pub(super) fn is_message(outputs: &[Output]) -> bool {
    matches!(outputs, [Output::All { except }] if except.is_empty())
}

fn push_children<'a>(node: &'a Node, open: &mut Vec<&'a Node>) {
    match node {
        Node::Literal(_) | Node::Column(_) | Node::Meta(_) | Node::AllMeta | Node::Alias(_) => {}
        Node::Path { base, steps } => {
            open.push(base);
            for step in steps {
                match step {
                    Access::Field(_) => {}
                    Access::Index(index) => open.push(index),
                    Access::Slice(from, to) => open.extend(from.iter().chain(to)),
                }
            }
        }
        Node::Builtin { args, .. } | Node::Portable { args, .. } | Node::Any(args) | Node::Every(args) => {
            open.extend(args);
        }
        Node::Operations { first, rest } => {
            open.push(first);
            for operation in rest {
                match operation {
                    Operation::Binary { right, .. } => open.push(right),
                    Operation::InList { list, .. } => open.extend(list),
                    Operation::InArray { array, .. } => open.push(array),
                    Operation::Between { low, high, .. } => open.extend([low, high]),
                    Operation::Like { pattern, .. } => match pattern {
                        Like::Fixed(_) => {}
                        Like::Computed(pattern) => open.push(pattern),
                    },
                }
            }
        }
        Node::Not(inner) | Node::Negate(inner) => open.push(inner),
        Node::Case {
            operand,
            arms,
            otherwise,
        } => {
            open.extend(operand.iter().chain(otherwise).map(AsRef::as_ref));
            open.extend(arms.iter().flat_map(|(when, then)| [when, then]));
        }
    }
}
