//! A host process for a test, and a client for its REST API.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;

use serde_json::Value;
use testkit::process::Signal;
use testkit::{Process, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

/// A running host. Killed when dropped.
pub(crate) struct Host {
    pub(crate) process: Process,
    address: SocketAddr,
}

/// An answer of the REST API.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Server-sent events of the REST API.
pub(crate) struct Follower {
    stream: BufReader<TcpStream>,
}

impl Host {
    /// Starts the program in `home` and waits until it says that it is ready.
    pub(crate) async fn start(home: &Path) -> Self {
        Self::ready(Self::spawn(home)).await
    }

    /// Waits until a program that was started with [`Host::spawn`] or in its way says that it is ready.
    pub(crate) async fn ready(mut process: Process) -> Self {
        let line = process
            .line_of_all("its ready line", |line| {
                line.starts_with("mangrove is ready at http://")
            })
            .await;
        let address = line.rsplit('/').next().and_then(|address| address.parse().ok());
        Self {
            process,
            address: address.expect("the ready line ends in an address"),
        }
    }

    /// Starts the program without waiting for anything.
    pub(crate) fn spawn(home: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mangrove"));
        command
            .arg("serve")
            .arg("--home")
            .arg(home)
            .args(["--rest", "127.0.0.1:0"]);
        Process::spawn(command)
    }

    /// Starts the program with a log that cannot be written: no line of it fits the disk any more.
    pub(crate) fn spawn_without_log(home: &Path) -> Process {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                r#"exec "$0" serve --home "$1" --rest 127.0.0.1:0 --log debug 2>/dev/full"#,
            ])
            .arg(env!("CARGO_BIN_EXE_mangrove"))
            .arg(home);
        Process::spawn(command)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, &body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.request("PUT", path, &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.request("DELETE", path, "").await
    }

    /// Creates a stream and demands that it succeeds.
    pub(crate) async fn stream(&self, sql: &str) {
        let reply = self.post("/streams", &serde_json::json!({ "sql": sql })).await;
        assert_eq!(reply.status, 201, "{}", reply.body);
    }

    /// Creates a rule and demands that it succeeds.
    pub(crate) async fn rule(&self, definition: &Value) {
        let reply = self.post("/rules", definition).await;
        assert_eq!(reply.status, 201, "{}", reply.body);
    }

    /// The next result that the `log` action of `rule` writes.
    pub(crate) async fn logged(&mut self, rule: &str) -> Value {
        let marker = format!("mangrove::sink::log: {rule}: ");
        let line = self
            .process
            .line(&format!("a result of rule {rule}"), |line| line.contains(&marker))
            .await;
        let (_, json) = line.split_once(&marker).expect("the line holds the marker");
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// One exchange, over a connection of its own.
    pub(crate) async fn request(&self, method: &str, path: &str, body: &str) -> Reply {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).await?;
            std::io::Result::Ok(String::from_utf8_lossy(&reply).into_owned())
        };
        let reply = within("an answer of the REST API", exchange)
            .await
            .expect("the REST API answers");
        let (head, body) = reply.split_once("\r\n\r\n").expect("an HTTP answer has a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Reply {
            status: status.expect("an HTTP answer has a status"),
            body: body.to_owned(),
        }
    }

    /// Follows `path`; every event from now on will be seen.
    pub(crate) async fn follow(&self, path: &str) -> Follower {
        // In HTTP/1.0 nothing stands between the lines.
        let head = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let stream = BufReader::new(stream);
        let mut follower = Follower { stream };
        let status = follower.line().await.expect("an HTTP answer has a head");
        assert!(status.contains(" 200 "), "{path}: {status}");
        while follower.line().await.is_some_and(|line| !line.is_empty()) {}
        follower
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends the host as Ctrl-C does.
    pub(crate) async fn interrupt(mut self) -> ExitStatus {
        self.process.signal(Signal::INT);
        self.process.wait().await
    }
}

impl Follower {
    /// The next event; `None`: there are no more.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(json) = self.line().await?.strip_prefix("data: ") {
                return Some(serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}")));
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = within("a line of an answer", self.stream.read_line(&mut line)).await;
        (read.unwrap() > 0).then(|| line.trim_end().to_owned())
    }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The text of an error, after checking its status.
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        self.json()["message"]
            .as_str()
            .expect("an error has a message")
            .to_owned()
    }
}
