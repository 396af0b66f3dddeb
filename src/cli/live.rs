//! Owns what `mangrove plugin logs` and `events` print: lines as they come, until the host says no more.

use std::io::Write;

use serde::Deserialize;

use super::client::{Client, Told, encode};
use super::table::{printable, time};
use super::terminal::Terminal;

/// A line of a plugin's process.
#[derive(Deserialize)]
struct Line {
    at: u64,
    text: String,
}

#[derive(Deserialize)]
struct Change {
    at: u64,
    plugin: String,
    version: Option<String>,
    state: String,
    reason: String,
    pid: Option<u32>,
}

pub(super) async fn logs(
    client: &Client,
    path: &str,
    follow: bool,
    lines: Option<usize>,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<()> {
    let lines = lines.map(|lines| format!("&lines={lines}")).unwrap_or_default();
    let path = format!("{path}?follow={follow}{lines}");
    let show = |text: &str| Ok(line(&serde_json::from_str(text)?));
    if follow {
        return print(client, &path, "", terminal, show).await;
    }
    let lines: Vec<serde_json::Value> = client.get(&path).await?;
    for line in lines {
        let text = line.to_string();
        let shown = if terminal.json { text } else { show(&text)? };
        writeln!(terminal.output, "{shown}")?;
    }
    Ok(())
}

pub(super) async fn events(
    client: &Client,
    plugin: Option<&str>,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<()> {
    let query = plugin.map(|plugin| format!("?plugin={}", encode(plugin)));
    let path = format!("/events{}", query.unwrap_or_default());
    let show = |text: &str| Ok(change(&serde_json::from_str(text)?));
    print(client, &path, &head(), terminal, show).await
}

/// Prints `head` as soon as nothing can be missed any more, and then a line for each event.
async fn print(
    client: &Client,
    path: &str,
    head: &str,
    terminal: &mut Terminal<'_>,
    show: impl Fn(&str) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let json = terminal.json;
    let output = std::cell::RefCell::new(&mut terminal.output);
    let print = |text: &str| -> anyhow::Result<()> {
        let mut output = output.borrow_mut();
        writeln!(output, "{text}")?;
        Ok(output.flush()?)
    };
    let begun = || {
        if json || head.is_empty() {
            Ok(())
        } else {
            print(head)
        }
    };
    let told = |told| match told {
        Told::Event(event) if json => print(&event),
        Told::Event(event) => print(&show(&event)?),
        Told::Lost(count) => {
            // Not among what is asked for.
            let _unread = writeln!(
                std::io::stderr(),
                "mangrove: {} were lost: they came too fast",
                printable(&count)
            );
            Ok(())
        }
    };
    client.follow(path, begun, told).await
}

fn line(line: &Line) -> String {
    format!("{}  {}", time(Some(line.at)), printable(&line.text))
}

fn head() -> String {
    row("TIME", "PLUGIN", "VERSION", "STATE", "PID", "REASON")
}

fn change(change: &Change) -> String {
    let pid = change.pid.map(|pid| pid.to_string());
    row(
        &time(Some(change.at)),
        &change.plugin,
        change.version.as_deref().unwrap_or("-"),
        &change.state,
        pid.as_deref().unwrap_or("-"),
        &change.reason,
    )
}

/// What comes cannot be measured first, so the columns have fixed widths that mostly do.
fn row(time: &str, plugin: &str, version: &str, state: &str, pid: &str, reason: &str) -> String {
    let row = format!("{time:<24}  {plugin:<12}  {version:<8}  {state:<10}  {pid:<7}  {reason}");
    printable(row.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_line_up_under_their_head() {
        let event = |state: &str, pid: Option<u32>, reason: &str| {
            let event = json!({
                "at": 1_795_359_600_120_u64, "plugin": "car", "version": "v1.0.0", "state": state, "pid": pid,
                "reason": reason
            });
            change(&serde_json::from_value(event).unwrap())
        };
        let lines = [
            head(),
            event("running", Some(4711), ""),
            event("restarting", None, "killed by signal 9"),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r"
        TIME                      PLUGIN        VERSION   STATE       PID      REASON
        2026-11-22T15:00:00.120Z  car           v1.0.0    running     4711
        2026-11-22T15:00:00.120Z  car           v1.0.0    restarting  -        killed by signal 9
        ");
    }

    #[test]
    fn a_line_cannot_command_the_terminal() {
        let evil = Line {
            at: 0,
            text: "\u{1b}]0;x\u{7}".to_owned(),
        };
        assert_eq!(line(&evil), "1970-01-01T00:00:00.000Z  \u{fffd}]0;x\u{fffd}");
    }
}
