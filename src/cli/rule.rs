//! Owns `mangrove rule`: the rules of a host and how they are.

use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::client::{Client, encode};
use super::table::{Table, printable};
use super::terminal::Terminal;

/// What is asked about rules.
#[derive(Debug, PartialEq, Eq, clap::Subcommand)]
pub(super) enum Command {
    /// List all rules and their states
    List,
    /// Show a rule's state and the figures of its nodes
    Status {
        /// The rule
        id: String,
    },
}

#[derive(Deserialize)]
struct Summary {
    id: String,
    status: String,
}

pub(super) async fn run(
    command: Command,
    client: &Client,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<()> {
    let path = match &command {
        Command::List => "/rules".to_owned(),
        Command::Status { id } => format!("/rules/{}/status", encode(id)),
    };
    let text = client.text(Method::GET, &path, None).await?;
    let shown = match command {
        _ if terminal.json => text + "\n",
        Command::List => list(serde_json::from_str(&text)?),
        Command::Status { id } => status(&id, &serde_json::from_str(&text)?),
    };
    terminal.output.write_all(shown.as_bytes())?;
    Ok(())
}

fn list(rules: Vec<Summary>) -> String {
    let mut table = Table::new(&["RULE", "STATE"]);
    for rule in rules {
        table.row([rule.id, rule.status]);
    }
    table.render()
}

fn status(id: &str, status: &Map<String, Value>) -> String {
    let text = |key: &str| match status.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let mut shown = format!(
        "rule    {}\nstate   {}\n",
        printable(id),
        printable(&text("status"))
    );
    if !text("message").is_empty() {
        shown.push_str(&format!("reason  {}\n", printable(&text("message"))));
    }
    let mut table = Table::new(&["NODE", "IN", "OUT", "ERRORS", "LAST ERROR"]);
    let nodes: Vec<&str> = status
        .keys()
        .filter_map(|key| key.strip_suffix("_records_in_total"))
        .collect();
    for node in &nodes {
        let of = |figure: &str| text(&format!("{node}_{figure}"));
        table.row([
            (*node).to_owned(),
            of("records_in_total"),
            of("records_out_total"),
            of("exceptions_total"),
            of("last_exception"),
        ]);
    }
    if !nodes.is_empty() {
        shown.push('\n');
        shown.push_str(&table.render());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_has_a_line_per_node() {
        let figures = json!({
            "status": "waiting", "message": "waiting for plugin \"car\": the plugin \"car\" was removed",
            "source_cars_0_records_in_total": 5, "source_cars_0_records_out_total": 4,
            "source_cars_0_exceptions_total": 1, "source_cars_0_last_exception": "no JSON",
            "op_project_0_records_in_total": 4, "op_project_0_records_out_total": 4,
            "op_project_0_exceptions_total": 0, "op_project_0_last_exception": ""
        });
        insta::assert_snapshot!(status("r1", figures.as_object().unwrap()), @r#"
        rule    r1
        state   waiting
        reason  waiting for plugin "car": the plugin "car" was removed

        NODE           IN  OUT  ERRORS  LAST ERROR
        source_cars_0  5   4    1       no JSON
        op_project_0   4   4    0       -
        "#);
        let stopped = json!({"status": "stopped", "message": ""});
        insta::assert_snapshot!(status("r1", stopped.as_object().unwrap()), @r"
        rule    r1
        state   stopped
        ");
    }
}
