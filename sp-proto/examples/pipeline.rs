//! Work is dealt out to three workers, and their results are collected: push → pull → push → pull.

use futures_util::StreamExt;
use sp_proto::{Pull, Push, SocketOptions};
use tokio::task::JoinSet;

/// One message at a time, so that a slow worker does not sit on work that another could do.
fn shallow() -> SocketOptions {
    SocketOptions {
        send_queue: 1,
        recv_queue: 1,
        ..Default::default()
    }
}

async fn work(tasks: String, results: String) -> anyhow::Result<()> {
    let (pull, push) = (Pull::with_options(shallow()), Push::new());
    push.dial(&results).await?;
    pull.dial(&tasks).await?;
    let mut tasks = pull.stream();
    while let Some(task) = tasks.next().await {
        let n: u64 = std::str::from_utf8(&task)?.parse()?;
        push.send((n * n).to_string()).await?;
    }
    Ok(())
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let (tasks, results) = (Push::with_options(shallow()), Pull::new());
    let at_tasks = tasks.listen("tcp://127.0.0.1:0").await?.address;
    let at_results = results.listen("tcp://127.0.0.1:0").await?.address;
    let mut workers = JoinSet::new();
    for _ in 0..3 {
        workers.spawn(work(at_tasks.clone(), at_results.clone()));
    }

    let deal = async {
        for n in 1..=100_u64 {
            tasks.send(n.to_string()).await?;
        }
        anyhow::Ok(())
    };
    let collect = async {
        let mut sum = 0;
        for _ in 1..=100 {
            let result = results.recv().await?;
            sum += std::str::from_utf8(&result)?.parse::<u64>()?;
        }
        anyhow::Ok(sum)
    };
    let (dealt, sum) = tokio::join!(deal, collect);
    dealt?;
    let sum = sum?;
    println!("the squares of 1 to 100 add up to {sum}");
    assert_eq!(sum, 338_350);
    workers.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}
