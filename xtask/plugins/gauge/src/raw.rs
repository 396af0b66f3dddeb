//! What the raw means can do in a program as it ships: `gauge json <seconds>` parses and writes, `gauge trip <seconds>`
//! sends messages to another process and back. Both print one number.

use std::error::Error;
use std::time::{Duration, Instant};

use mangrove_sdk::Object;
use sp_proto::Pair;
use tokio::process::Command;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// A tuple as the source makes it.
const TUPLE: &str = concat!(
    r#"{"n":1234567,"at":1700000000000000,"text":"The quick brown fox jumps over the lazy dog, again and again, "#,
    r#"until the dog is tired of it, and the fox too, and both lie down in the sun."}"#
);

/// About the length of a message with one call.
const MESSAGE: [u8; 128] = [b'x'; 128];

/// From one round trip to the next, as the calls that they stand beside.
const PACE: Duration = Duration::from_millis(1);

/// Does it if it is one of the words.
pub(crate) async fn run(word: &str, argument: &str) -> Option<Result> {
    match word {
        "json" => Some(seconds(argument).and_then(json)),
        "trip" => Some(match seconds(argument) {
            Ok(window) => trip(window).await,
            Err(error) => Err(error),
        }),
        "echo" => Some(echo(argument).await),
        _ => None,
    }
}

fn seconds(argument: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(argument.parse()?)?)
}

/// Tuples that one thread parses and writes in a second.
fn json(window: Duration) -> Result {
    let (start, mut tuples, mut text) = (Instant::now(), 0_u32, Vec::new());
    while start.elapsed() < window {
        for _ in 0..1000 {
            text.clear();
            let tuple: Object = serde_json::from_str(std::hint::black_box(TUPLE))?;
            serde_json::to_writer(&mut text, std::hint::black_box(&tuple))?;
            std::hint::black_box(&text);
        }
        tuples += 1000;
    }
    println!("{}", f64::from(tuples) / start.elapsed().as_secs_f64());
    Ok(())
}

/// The median of the round trips, in microseconds.
async fn trip(window: Duration) -> Result {
    let folder = std::env::temp_dir().join(format!("gauge-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let address = format!("ipc://{}/trip.ipc", folder.display());
    let pair = Pair::new();
    pair.listen(&address).await?;
    let mut echo = Command::new(std::env::current_exe()?);
    let mut echo = echo.args(["echo", &address]).kill_on_drop(true).spawn()?;
    let start = Instant::now();
    let (mut trips, mut due) = (Vec::new(), start);
    while start.elapsed() < window || trips.is_empty() {
        tokio::time::sleep_until(due.into()).await;
        due += PACE;
        let sent = Instant::now();
        pair.send(MESSAGE.to_vec()).await?;
        pair.recv().await?;
        trips.push(sent.elapsed());
    }
    echo.kill().await?;
    std::fs::remove_dir_all(&folder)?;
    trips.sort_unstable();
    let median = trips.get(trips.len() / 2).copied().unwrap_or_default();
    println!("{}", median.as_secs_f64() * 1e6);
    Ok(())
}

async fn echo(address: &str) -> Result {
    let pair = Pair::new();
    pair.dial(address).await?;
    loop {
        pair.send(pair.recv().await?).await?;
    }
}
