//! Owns `mangrove plugin`: what can be typed, what it asks the host for, and how the answers look.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::author;
use super::client::{Client, encode, encode_path};
use super::live;
use super::table::{Table, printable, span, time};
use super::terminal::Terminal;

/// What is done with plugins.
#[derive(Debug, PartialEq, Eq, clap::Subcommand)]
pub(super) enum Command {
    /// List all plugins and how they are
    List,
    /// Show what a plugin says of itself
    Describe(Name),
    /// Show how a plugin is
    Status(Name),
    /// Install a plugin from a zip, and start it
    Install(Package),
    /// Replace an installed plugin by the one in a zip
    Update(Package),
    /// Stop a plugin and delete its folder
    Remove {
        #[command(flatten)]
        name: Name,
        /// Do not ask, even when rules use it
        #[arg(long, short)]
        yes: bool,
    },
    /// Start a plugin that is stopped, has failed or was refused
    Start(Name),
    /// Stop a plugin until it is started, its files change, or the host starts again
    Stop(Name),
    /// Stop a plugin's process and start another one
    Restart(Name),
    /// Stop a plugin's process and wait for one that you start, such as in a debugger
    Attach(Name),
    /// Show what a plugin's processes have written
    Logs {
        #[command(flatten)]
        name: Name,
        /// Go on with what comes
        #[arg(long, short)]
        follow: bool,
        /// Only the last so many lines
        #[arg(long, short = 'n', value_name = "N")]
        lines: Option<usize>,
    },
    /// Show every change of state as it happens
    Events {
        /// Only of this plugin
        name: Option<String>,
    },
    #[command(flatten)]
    Author(author::Command),
}

#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(super) struct Name {
    /// The plugin
    name: String,
}

#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(super) struct Package {
    /// A zip: a path on the host's machine, or a file://, http:// or https:// URL
    file: String,
    /// The plugin's name, if it is not the zip's
    #[arg(long)]
    name: Option<String>,
    /// What the zip's SHA-256 sum has to be
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Arguments for the package's install.sh
    #[arg(last = true, value_name = "ARGS")]
    shell_paras: Vec<String>,
}

/// What a plugin says of itself, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Manifest {
    name: String,
    version: String,
    language: String,
    description: String,
    sources: Vec<String>,
    sinks: Vec<String>,
    functions: Vec<String>,
}

/// What a host says of itself, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Host {
    trouble: Option<String>,
}

/// What the host says of a plugin's state. What it leaves out is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    status: String,
    err_msg: String,
    note: String,
    version: String,
    pid: Option<u32>,
    restarts: u32,
    uptime_seconds: Option<u64>,
    rules: Vec<String>,
    refused_peers: u64,
    attached: bool,
    instances: Vec<Instance>,
    symbols: BTreeMap<String, BTreeMap<String, Symbol>>,
}

/// One of several processes beside each other.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Instance {
    instance: u32,
    status: String,
    err_msg: String,
    version: String,
    pid: Option<u32>,
    restarts: u32,
    uptime_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Symbol {
    last_ok: Option<u64>,
    errors: u64,
    last_error: String,
}

pub(super) async fn run(
    command: Command,
    client: &Client,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<()> {
    let shown = match command {
        Command::List => list(client, terminal.json).await?,
        Command::Describe(Name { name }) => {
            let text = client.text(Method::GET, &path(&name, ""), None).await?;
            match terminal.json {
                true => text + "\n",
                false => describe(&serde_json::from_str(&text)?),
            }
        }
        Command::Status(Name { name }) => {
            let text = client.text(Method::GET, &path(&name, "/status"), None).await?;
            match terminal.json {
                true => text + "\n",
                false => status(&name, &serde_json::from_str(&text)?),
            }
        }
        Command::Install(package) => {
            let (name, mut body) = package.request()?;
            body.insert("name".to_owned(), name.into());
            done(
                client,
                Method::POST,
                "/plugins/portables",
                Some(Value::Object(body)),
                terminal.json,
            )
            .await?
        }
        Command::Update(package) => {
            let (name, body) = package.request()?;
            done(
                client,
                Method::PUT,
                &path(&name, ""),
                Some(Value::Object(body)),
                terminal.json,
            )
            .await?
        }
        Command::Remove {
            name: Name { name },
            yes,
        } => {
            if !yes {
                confirm(client, &name, terminal).await?;
            }
            done(client, Method::DELETE, &path(&name, ""), None, terminal.json).await?
        }
        Command::Start(name) => control(client, &name, "start", terminal.json).await?,
        Command::Stop(name) => control(client, &name, "stop", terminal.json).await?,
        Command::Restart(name) => control(client, &name, "restart", terminal.json).await?,
        Command::Attach(name) => attach(client, &name, terminal.json).await?,
        Command::Logs {
            name: Name { name },
            follow,
            lines,
        } => {
            return live::logs(client, &path(&name, "/logs"), follow, lines, terminal).await;
        }
        Command::Events { name } => return live::events(client, name.as_deref(), terminal).await,
        Command::Author(command) => return author::run(command, terminal).await,
    };
    terminal.output.write_all(shown.as_bytes())?;
    Ok(())
}

fn path(name: &str, rest: &str) -> String {
    format!("/plugins/portables/{}{rest}", encode(name))
}

async fn control(client: &Client, name: &Name, verb: &str, json: bool) -> anyhow::Result<String> {
    done(
        client,
        Method::POST,
        &path(&name.name, &format!("/{verb}")),
        None,
        json,
    )
    .await
}

/// What the process needs that the author starts, one assignment per line.
async fn attach(client: &Client, name: &Name, json: bool) -> anyhow::Result<String> {
    let text = client
        .text(Method::POST, &path(&name.name, "/attach"), None)
        .await?;
    if json {
        return Ok(format!("{text}\n"));
    }
    Ok(attached(&serde_json::from_str(&text)?))
}

/// What the host says to somebody who is to start a process.
#[derive(Deserialize)]
struct Attached {
    message: String,
    environment: BTreeMap<String, String>,
}

/// With lines that a shell takes: the values are addresses, names and hexadecimal digits.
fn attached(answer: &Attached) -> String {
    let variables = answer.environment.iter();
    let exports = variables.map(|(key, value)| format!("export {}={}\n", printable(key), printable(value)));
    format!("{}\n{}", printable(&answer.message), exports.collect::<String>())
}

/// The host's sentence on what it did.
async fn done(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<Value>,
    json: bool,
) -> anyhow::Result<String> {
    let sentence = client.text(method, path, body.as_ref()).await?;
    Ok(match json {
        true => format!("{}\n", json!({ "message": sentence })),
        false => format!("{}\n", printable(&sentence)),
    })
}

impl Package {
    /// The plugin's name, and the body of the request without it.
    fn request(self) -> anyhow::Result<(String, serde_json::Map<String, Value>)> {
        let file = if self.file.contains("://") {
            self.file.clone()
        } else {
            let path = std::path::absolute(&self.file)?;
            let path = path.to_str().context("the path of the zip is no text")?;
            format!("file://{}", encode_path(path))
        };
        let stem = || Path::new(&self.file).file_stem()?.to_str().map(str::to_owned);
        let name = self.name.clone().or_else(stem);
        let name = name.filter(|name| !name.is_empty());
        let name =
            name.with_context(|| format!("{:?} does not end in a plugin's name: say --name", self.file))?;
        let mut body = serde_json::Map::new();
        body.insert("file".to_owned(), file.into());
        if let Some(sum) = self.sha256 {
            body.insert("sha256".to_owned(), sum.into());
        }
        if !self.shell_paras.is_empty() {
            body.insert("shellParas".to_owned(), self.shell_paras.into());
        }
        Ok((name, body))
    }
}

/// Asks when rules would have to wait.
async fn confirm(client: &Client, name: &str, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
    let status: Status = client.get(&path(name, "/status")).await?;
    if status.rules.is_empty() {
        return Ok(());
    }
    let rules = printable(&status.rules.join(", "));
    // Not where the answers go: that may be a file.
    let mut prompt = std::io::stderr();
    write!(
        prompt,
        "These rules use the plugin {name:?} and will wait until it is back: {rules}. Remove it? [y/N] "
    )?;
    prompt.flush()?;
    let mut answer = String::new();
    terminal.input.read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("the plugin {name:?} was not removed; --yes removes it without asking");
    }
    Ok(())
}

async fn list(client: &Client, json: bool) -> anyhow::Result<String> {
    let statuses = client
        .text(Method::GET, "/plugins/portables/status/all", None)
        .await?;
    if json {
        return Ok(statuses + "\n");
    }
    let host: Host = client.get("/").await?;
    if let Some(trouble) = host.trouble {
        writeln!(std::io::stderr(), "mangrove: {}", printable(&trouble))?;
    }
    let manifests: Vec<Manifest> = client.get("/plugins/portables").await?;
    Ok(rows(&serde_json::from_str(&statuses)?, &manifests))
}

fn rows(statuses: &BTreeMap<String, Status>, manifests: &[Manifest]) -> String {
    let mut table = Table::new(&["NAME", "VERSION", "STATE", "PID", "RESTARTS", "RULES", "REASON"]);
    for (name, status) in statuses {
        let manifest = manifests.iter().find(|manifest| manifest.name == *name);
        let reasons = [status.err_msg.as_str(), status.note.as_str()];
        let reasons: Vec<&str> = reasons.into_iter().filter(|text| !text.is_empty()).collect();
        table.row([
            name.clone(),
            manifest
                .map(|manifest| manifest.version.clone())
                .unwrap_or_default(),
            status.status.clone(),
            optional(status.pid),
            status.restarts.to_string(),
            status.rules.len().to_string(),
            reasons.join("; "),
        ]);
    }
    table.render()
}

fn optional(number: Option<u32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// Two columns: what, and its value; what is empty is left out.
fn sheet(rows: &[(&str, String)]) -> String {
    let rows = rows.iter().filter(|(_, value)| !value.is_empty());
    rows.map(|(what, value)| format!("{what:<13}{}\n", printable(value)))
        .collect()
}

fn describe(manifest: &Manifest) -> String {
    sheet(&[
        ("name", manifest.name.clone()),
        ("version", manifest.version.clone()),
        ("language", manifest.language.clone()),
        ("description", manifest.description.clone()),
        ("sources", manifest.sources.join(", ")),
        ("sinks", manifest.sinks.join(", ")),
        ("functions", manifest.functions.join(", ")),
    ])
}

fn status(name: &str, status: &Status) -> String {
    let mut text = sheet(&[
        ("name", name.to_owned()),
        ("version", status.version.clone()),
        ("state", status.status.clone()),
        ("reason", status.err_msg.clone()),
        ("note", status.note.clone()),
        ("pid", optional(status.pid)),
        (
            "attached",
            if status.attached {
                "yes".to_owned()
            } else {
                String::new()
            },
        ),
        ("uptime", span(status.uptime_seconds)),
        ("restarts", status.restarts.to_string()),
        ("rules", status.rules.join(", ")),
        (
            "refused",
            match status.refused_peers {
                0 => String::new(),
                peers => format!("foreign peers: {peers}"),
            },
        ),
    ]);
    if !status.instances.is_empty() {
        let mut table = Table::new(&[
            "INSTANCE", "VERSION", "STATE", "PID", "UPTIME", "RESTARTS", "REASON",
        ]);
        for one in &status.instances {
            table.row([
                one.instance.to_string(),
                one.version.clone(),
                one.status.clone(),
                optional(one.pid),
                span(one.uptime_seconds),
                one.restarts.to_string(),
                one.err_msg.clone(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    if status.symbols.values().any(|symbols| !symbols.is_empty()) {
        let mut table = Table::new(&["KIND", "SYMBOL", "LAST OK", "ERRORS", "LAST ERROR"]);
        for (kind, symbols) in &status.symbols {
            for (name, symbol) in symbols {
                table.row([
                    kind.trim_end_matches('s').to_owned(),
                    name.clone(),
                    time(symbol.last_ok),
                    symbol.errors.to_string(),
                    symbol.last_error.clone(),
                ]);
            }
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAR: &str = r#"{"name":"car","version":"v1.0.0","language":"rust","executable":"server",
        "sources":["json","udp"],"sinks":["command"],"functions":[]}"#;

    #[test]
    fn the_list_has_a_line_per_plugin() {
        let statuses = json!({
            "car": {"refCount": {"r1": 2}, "status": "running", "errMsg": "", "pid": 4711, "restarts": 0,
                    "rules": ["r1"], "note": "version v2 does not start"},
            "odd": {"status": "refused", "errMsg": "there is no odd.json in its folder", "pid": null}
        });
        let text = rows(
            &serde_json::from_value(statuses).unwrap(),
            &[serde_json::from_str(CAR).unwrap()],
        );
        insta::assert_snapshot!(text, @r"
        NAME  VERSION  STATE    PID   RESTARTS  RULES  REASON
        car   v1.0.0   running  4711  0         1      version v2 does not start
        odd   -        refused  -     0         0      there is no odd.json in its folder
        ");
    }

    #[test]
    fn a_status_leaves_out_what_is_empty() {
        let quiet = json!({"status": "stopped", "errMsg": "stopped by hand", "restarts": 0});
        insta::assert_snapshot!(status("car", &serde_json::from_value(quiet).unwrap()), @r"
        name         car
        state        stopped
        reason       stopped by hand
        restarts     0
        ");
        let busy = json!({
            "status": "running", "version": "v1.0.0", "pid": 7, "restarts": 2, "uptimeSeconds": 67,
            "rules": ["r1", "r2"], "refusedPeers": 1, "attached": true,
            "symbols": {
                "sources": {"json": {"lastOk": 1_795_359_600_120_u64, "errors": 0, "lastError": ""}},
                "sinks": {},
                "functions": {"link": {"lastOk": null, "errors": 3, "lastError": "no"}}
            }
        });
        insta::assert_snapshot!(status("car", &serde_json::from_value(busy).unwrap()), @r"
        name         car
        version      v1.0.0
        state        running
        pid          7
        attached     yes
        uptime       1m7s
        restarts     2
        rules        r1, r2
        refused      foreign peers: 1

        KIND      SYMBOL  LAST OK                   ERRORS  LAST ERROR
        function  link    -                         3       no
        source    json    2026-11-22T15:00:00.120Z  0       -
        ");
    }

    #[test]
    fn a_status_has_a_line_per_instance() {
        let several = json!({
            "status": "restarting", "version": "v1.0.0", "pid": 7, "restarts": 1, "uptimeSeconds": 67,
            "errMsg": "1 of 2 instances run; instance 1 is restarting (it ended: killed)",
            "instances": [
                {"instance": 0, "status": "running", "errMsg": "", "pid": 7, "restarts": 0, "version": "v1.0.0",
                 "uptimeSeconds": 67},
                {"instance": 1, "status": "restarting", "errMsg": "it ended: killed", "pid": null, "restarts": 1,
                 "version": "v1.0.0", "uptimeSeconds": null}
            ]
        });
        insta::assert_snapshot!(status("car", &serde_json::from_value(several).unwrap()), @r"
        name         car
        version      v1.0.0
        state        restarting
        reason       1 of 2 instances run; instance 1 is restarting (it ended: killed)
        pid          7
        uptime       1m7s
        restarts     1

        INSTANCE  VERSION  STATE       PID  UPTIME  RESTARTS  REASON
        0         v1.0.0   running     7    1m7s    0         -
        1         v1.0.0   restarting  -    -       1         it ended: killed
        ");
    }

    #[test]
    fn a_description_is_what_the_manifest_says() {
        insta::assert_snapshot!(describe(&serde_json::from_str(CAR).unwrap()), @r"
        name         car
        version      v1.0.0
        language     rust
        sources      json, udp
        sinks        command
        ");
    }

    #[test]
    fn a_package_is_a_path_or_a_url_and_its_name_the_plugins() {
        let package = |file: &str, name: Option<&str>| Package {
            file: file.to_owned(),
            name: name.map(str::to_owned),
            sha256: None,
            shell_paras: vec!["a".to_owned()],
        };
        let (name, body) = package("/tmp/my car.zip", Some("car")).request().unwrap();
        assert_eq!(name, "car");
        let expected = json!({"file": "file:///tmp/my%20car.zip", "shellParas": ["a"]});
        assert_eq!(Value::Object(body), expected);
        let (name, body) = package("https://example.org/car.zip", None).request().unwrap();
        assert_eq!(
            (name.as_str(), &body["file"]),
            ("car", &json!("https://example.org/car.zip"))
        );
        let (_, body) = package("car.zip", None).request().unwrap();
        assert!(body["file"].as_str().unwrap().starts_with("file:///"), "{body:?}");
        assert!(package("..", None).request().is_err());
    }
}
