//! What is refused before a handle is asked, over routes that stand for all. The real routes are tested end to
//! end, against a whole host.

use axum::body::Body;
use axum::http::{Request, header};
use axum::routing::post;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::request::{JsonBody, JsonText, Name};
use super::streams::Statement;
use super::*;

fn stand_in() -> Router {
    let settings = Rest {
        address: "127.0.0.1:9081".parse().unwrap(),
        max_body: 1024,
    };
    let routes = Router::new()
        .route(
            "/streams",
            post(async |JsonBody(body): JsonBody<Statement>| body.sql),
        )
        .route("/rules", get("[]").post(async |JsonText(text): JsonText| text))
        .route("/rules/{id}", get(async |Name(id): Name| id));
    bounded(routes, &settings)
}

/// Status, `Allow` header and body of the answer.
async fn ask(method: &str, path: &str, body: impl Into<Body>) -> (u16, String, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost:9081")
        .body(body.into())
        .unwrap();
    let response = stand_in().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let allow = response
        .headers()
        .get(header::ALLOW)
        .map_or("", |value| value.to_str().unwrap())
        .to_owned();
    let body = axum::body::to_bytes(response.into_body(), 65536).await.unwrap();
    (status, allow, String::from_utf8(body.into()).unwrap())
}

async fn refusal(method: &str, path: &str, body: impl Into<Body>) -> (u16, Value) {
    let (status, _, body) = ask(method, path, body).await;
    (
        status,
        serde_json::from_str(&body).expect("an error that is not JSON"),
    )
}

#[tokio::test]
async fn what_is_right_passes_as_it_is() {
    assert_eq!(ask("POST", "/streams", r#"{"sql":"x","more":1}"#).await.2, "x");
    assert_eq!(
        ask("POST", "/rules", r#" {"id": "r"} "#).await.2,
        r#" {"id": "r"} "#
    );
    assert_eq!(ask("GET", "/rules/a%20b%2Fc", "").await.2, "a b/c");
    assert_eq!(ask("HEAD", "/rules", "").await.0, 200);
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405_with_those_that_are_known() {
    assert_eq!(
        refusal("GET", "/rule", "").await,
        (
            404,
            json!({"error": 1002, "message": "there is no path \"/rule\""})
        )
    );
    let (status, allow, body) = ask("PATCH", "/rules", "").await;
    assert_eq!((status, allow.as_str()), (405, "GET,HEAD,POST"));
    assert_eq!(body, r#"{"error":1000,"message":"\"/rules\" has no PATCH"}"#);
}

#[tokio::test]
async fn a_body_that_is_not_what_was_expected_is_400_and_says_where() {
    for (path, body, part) in [
        ("/streams", "", "EOF while parsing a value at line 1 column 0"),
        (
            "/streams",
            r#"{"sql":"#,
            "EOF while parsing a value at line 1 column 7",
        ),
        (
            "/streams",
            r#"{"sqll":"x"}"#,
            "missing field `sql` at line 1 column 12",
        ),
        (
            "/streams",
            r#"{"sql":7}"#,
            "invalid type: integer `7`, expected a string at line 1 column 8",
        ),
        (
            "/streams",
            "null",
            "invalid type: null, expected an object with \"sql\" at line 1 column 4",
        ),
        ("/rules", "{id: 1}", "key must be a string at line 1 column 2"),
        ("/rules", "{} x", "trailing characters at line 1 column 4"),
    ] {
        let (status, error) = refusal("POST", path, body).await;
        assert_eq!((status, &error["error"]), (400, &json!(1000)), "{body}");
        let message = error["message"].as_str().unwrap();
        assert!(message.ends_with(part), "{message}");
    }
    for path in ["/rules", "/streams"] {
        let deep = "[".repeat(1000);
        assert_eq!(refusal("POST", path, deep).await.0, 400);
        assert_eq!(refusal("POST", path, b"\"\xff\"".as_slice()).await.0, 400);
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_and_names_the_setting() {
    for path in ["/rules", "/streams"] {
        let (status, error) = refusal("POST", path, " ".repeat(1025)).await;
        assert_eq!(status, 413);
        assert!(
            error["message"].as_str().unwrap().contains("rest.maxBody"),
            "{error}"
        );
    }
    assert_eq!(refusal("POST", "/rules", " ".repeat(1024)).await.0, 400);
}

#[tokio::test]
async fn a_path_that_is_no_text_is_400() {
    let (status, error) = refusal("GET", "/rules/%ff", "").await;
    assert_eq!((status, &error["error"]), (400, &json!(1000)));
}

#[tokio::test]
async fn foreign_pages_are_403() {
    let request = Request::post("/rules")
        .header(header::HOST, "localhost:9081")
        .header(header::ORIGIN, "http://evil.example")
        .body(Body::from("{}"))
        .unwrap();
    let response = stand_in().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 403);
}
