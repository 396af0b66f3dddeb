//! Owns the HTTP server: it accepts connections, runs every request to its end, and joins both at shutdown.
//! It does not know the routes.
//!
//! axum's own server leaves its connections to the runtime and waits without limit for those that say nothing;
//! here each connection and each request is a task with this module as its owner.

use std::pin::pin;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::ApiError;

/// The most connections at a time; further ones wait in the system's queue.
const MAX_CONNECTIONS: usize = 512;

/// How long a client may take over the head of a request, and so how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests that are under way at shutdown may take.
const GRACE: Duration = Duration::from_secs(10);

/// How long to wait when the system has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Serves `router` until `shutdown` is cancelled, and then until all requests that are under way are answered,
/// at most 10 s more. Connections that idle do not hold it up.
///
/// # Cancel safety
/// Dropped, it cuts connections and cancels requests where they stand.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    serve_within(GRACE, listener, router, shutdown).await;
}

async fn serve_within(grace: Duration, listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let requests = Requests::default();
    let _cancelled_when_dropped = requests.abandon.clone().drop_guard();
    let router = router.layer(middleware::from_fn_with_state(requests.clone(), run_to_the_end));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    tracing::trace!(%peer, "connected");
                    connections.spawn(connection(stream, router.clone(), shutdown.clone()));
                }
                // What goes wrong here passes: the peer is gone again, or the system is short of something.
                Err(error) => {
                    tracing::warn!("cannot accept a REST connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    requests.running.close();
    let all = async {
        requests.running.wait().await;
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    if tokio::time::timeout(grace, all).await.is_err() {
        let (requests_left, connections_left) = (requests.running.len(), connections.len());
        tracing::warn!(
            requests_left,
            connections_left,
            "REST did not end within {grace:?}"
        );
        requests.abandon.cancel();
        connections.shutdown().await;
        requests.running.wait().await;
    }
}

async fn connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    // Answers are small and wanted at once.
    let _best_effort = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a REST connection broke: {error}");
    }
}

/// The requests that are under way.
#[derive(Clone, Default)]
struct Requests {
    running: TaskTracker,
    /// Given up at shutdown.
    abandon: CancellationToken,
}

/// Runs a request as a task of its own: a client that hangs up does not leave a rule half stopped or a plugin
/// half installed, and a handler that panics answers 500 instead of cutting the connection.
async fn run_to_the_end(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let begun = Instant::now();
    let abandon = requests.abandon.clone();
    let work = abandon.run_until_cancelled_owned(next.run(request));
    let response = match requests.running.spawn(work).await {
        Ok(Some(response)) => response,
        Ok(None) => ApiError::unavailable("the host shuts down").into_response(),
        Err(error) => ApiError::internal(format!("{method} {path}: {error}")).into_response(),
    };
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    tracing::debug!(%method, path, status, ?took, "answered");
    response
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a REST connection broke: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    /// Turns a hang into a failure.
    const LIMIT: Duration = Duration::from_secs(20);

    struct Server {
        address: SocketAddr,
        shutdown: CancellationToken,
        serving: JoinSet<()>,
    }

    impl Server {
        /// One that waits for its requests longer than any test does.
        async fn start(router: Router) -> Self {
            Self::start_within(10 * LIMIT, router).await
        }

        async fn start_within(grace: Duration, router: Router) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let shutdown = CancellationToken::new();
            let mut serving = JoinSet::new();
            serving.spawn(serve_within(grace, listener, router, shutdown.clone()));
            Self {
                address,
                shutdown,
                serving,
            }
        }

        async fn send(&self, text: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            stream
        }

        async fn join(&mut self) {
            tokio::time::timeout(LIMIT, self.serving.join_next())
                .await
                .expect("serve did not end")
                .unwrap()
                .unwrap();
        }
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut buffer = vec![0; 4096];
        let read = tokio::time::timeout(LIMIT, stream.read(&mut buffer)).await;
        let size = read.expect("no answer").unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    #[tokio::test]
    async fn idle_and_silent_connections_do_not_hold_up_the_shutdown() {
        let mut server = Server::start(Router::new().route("/", get("done"))).await;
        // Accepted in this order: once the second is answered, the first is known too.
        let mut silent = server.send("").await;
        let mut idle = server.send(REQUEST).await;
        assert!(answer(&mut idle).await.ends_with("done"));
        server.shutdown.cancel();
        server.join().await;
        for stream in [&mut idle, &mut silent] {
            assert_eq!(answer(stream).await, "", "the connection was not closed");
        }
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[tokio::test]
    async fn a_request_that_is_under_way_is_answered_before_the_end() {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (begun.clone(), go_on.clone());
        let slow = get(async move || {
            tell.notify_one();
            wait.notified().await;
            "done"
        });
        let mut server = Server::start(Router::new().route("/", slow)).await;
        let mut stream = server.send(REQUEST).await;
        tokio::time::timeout(LIMIT, begun.notified()).await.unwrap();
        server.shutdown.cancel();
        go_on.notify_one();
        assert!(answer(&mut stream).await.ends_with("done"));
        server.join().await;
    }

    #[tokio::test]
    async fn a_request_whose_client_has_gone_runs_to_its_end() {
        let (begun, go_on, ended) = (
            Arc::new(Notify::new()),
            Arc::new(Notify::new()),
            Arc::new(Notify::new()),
        );
        let (tell, wait, tell_end) = (begun.clone(), go_on.clone(), ended.clone());
        let slow = get(async move || {
            tell.notify_one();
            wait.notified().await;
            tell_end.notify_one();
        });
        let mut server = Server::start(Router::new().route("/", slow)).await;
        let stream = server.send(REQUEST).await;
        tokio::time::timeout(LIMIT, begun.notified()).await.unwrap();
        drop(stream);
        // The server has noticed when it has served another connection that came later.
        let mut other = server
            .send("GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        assert!(answer(&mut other).await.starts_with("HTTP/1.1 404"));
        go_on.notify_one();
        tokio::time::timeout(LIMIT, ended.notified()).await.unwrap();
        server.shutdown.cancel();
        server.join().await;
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_with_500_and_the_connection_goes_on() {
        let broken = get(async || -> StatusCode { panic!("a bug") });
        let router = Router::new().route("/", get("done")).route("/broken", broken);
        let mut server = Server::start(router).await;
        let mut stream = server
            .send("GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let text = answer(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 500"), "{text}");
        assert!(text.ends_with(r#"{"error":1001,"message":"the host could not do this; its log says why"}"#));
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.ends_with("done"));
        server.shutdown.cancel();
        server.join().await;
    }

    #[tokio::test]
    async fn what_does_not_end_in_time_is_cut() {
        let stuck = get(async || std::future::pending::<StatusCode>().await);
        let router = Router::new().route("/", stuck);
        let mut server = Server::start_within(Duration::from_millis(10), router).await;
        let mut stream = server.send(REQUEST).await;
        let mut half = server.send("GET / HTT").await;
        server.shutdown.cancel();
        server.join().await;
        for stream in [&mut stream, &mut half] {
            // Closed or reset, but not open.
            let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await;
            let _how = ended.expect("a connection is still open");
        }
    }
}
