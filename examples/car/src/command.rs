//! The sink `command`: runs a command with each result on its standard input.
//!
//! The command is a program and its arguments; no shell reads them. What it prints goes where the plugin's own log
//! goes. A result counts as taken when the command has ended with status 0 within its time.

use std::process::Stdio;
use std::time::Duration;

use mangrove_sdk::{Context, Message, Result, Sink};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command as Process};

pub(crate) struct Command {
    program: String,
    args: Vec<String>,
    timeout: Duration,
}

#[derive(Deserialize)]
pub(crate) struct Config {
    /// The program and its arguments.
    command: Vec<String>,
    /// Milliseconds that one run may take.
    #[serde(default = "ten_seconds")]
    timeout: u64,
}

fn ten_seconds() -> u64 {
    10_000
}

impl Sink for Command {
    type Config = Config;

    async fn open(config: Config, _: &Context) -> Result<Self> {
        let mut words = config.command.into_iter();
        let program = words.next().filter(|program| !program.is_empty()).ok_or(
            "\"command\" is empty; expected a program and its arguments, such as [\"tee\", \"-a\", \"out\"]",
        )?;
        Ok(Self {
            program,
            args: words.collect(),
            timeout: Duration::from_millis(config.timeout),
        })
    }

    async fn collect(&mut self, message: Message, _: &Context) -> Result {
        let mut child = Process::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot run {:?}: {error}", self.program))?;
        let status = match tokio::time::timeout(self.timeout, feed(&mut child, message.as_bytes())).await {
            Ok(status) => status?,
            Err(_) => {
                child.kill().await?;
                return Err(format!(
                    "{:?} was killed: it took longer than {:?}",
                    self.program, self.timeout
                )
                .into());
            }
        };
        if status.success() {
            Ok(())
        } else {
            Err(format!("{:?} ended with {status}", self.program).into())
        }
    }
}

/// Writes the command's standard input and waits for its end. A command need not read all of it: how it ends is
/// what counts.
async fn feed(child: &mut Child, input: &[u8]) -> std::io::Result<std::process::ExitStatus> {
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin
            && let Err(error) = stdin.write_all(input).await
        {
            tracing::debug!(%error, "the command did not read all of its input");
        }
        // Dropped here: the command sees the end of its input.
    };
    let mut write = std::pin::pin!(write);
    tokio::select! {
        biased;
        () = &mut write => child.wait().await,
        status = child.wait() => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_sdk::testing;
    use serde_json::json;

    async fn sink(config: serde_json::Value) -> Result<Command> {
        Command::open(serde_json::from_value(config)?, &testing::context()).await
    }

    async fn run(command: serde_json::Value, message: Message) -> Result {
        let config = json!({"command": command, "timeout": 20_000});
        sink(config).await?.collect(message, &testing::context()).await
    }

    #[tokio::test]
    async fn the_result_is_the_commands_input() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out; rm -rf $HOME");
        // No shell: the path with its spaces and signs is one argument.
        let command = json!(["dd", format!("of={}", path.display()), "status=none"]);
        run(command, r#"[{"a":1}]"#.into()).await.unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), r#"[{"a":1}]"#);
    }

    #[tokio::test]
    async fn a_status_other_than_0_is_an_error() {
        let error = run(json!(["sh", "-c", "cat > /dev/null; exit 3"]), "[]".into()).await;
        assert_eq!(error.unwrap_err().to_string(), "\"sh\" ended with exit status: 3");
    }

    #[tokio::test]
    async fn a_command_that_ignores_its_input_is_judged_by_its_status() {
        let large = vec![b'x'; 4 * 1024 * 1024];
        run(json!(["true"]), large.clone().into()).await.unwrap();
        assert!(run(json!(["false"]), large.into()).await.is_err());
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed() {
        let mut slow = sink(json!({"command": ["sleep", "600"], "timeout": 20}))
            .await
            .unwrap();
        let error = slow.collect("[]".into(), &testing::context()).await.unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_and_an_empty_command_are_named() {
        let error = run(json!(["/no/such/program"]), "[]".into()).await.unwrap_err();
        assert!(error.to_string().contains("\"/no/such/program\""), "{error}");
        assert!(
            sink(json!({"command": []}))
                .await
                .err()
                .unwrap()
                .to_string()
                .contains("is empty")
        );
    }
}
