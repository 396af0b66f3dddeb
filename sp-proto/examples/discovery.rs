//! Who is there? A survey finds the services that are running, until its time is over.

use futures_util::StreamExt;
use sp_proto::{Event, Respondent, Surveyor};
use std::collections::BTreeSet;
use tokio::task::JoinSet;

async fn service(name: &'static str, address: String) -> anyhow::Result<()> {
    let respondent = Respondent::new();
    respondent.dial(&address).await?;
    let mut surveys = respondent.stream();
    while let Some(survey) = surveys.next().await {
        // Who is not asked keeps silent.
        if survey.body().as_bytes() == b"who can print?" && name.starts_with("printer") {
            survey.reply(name).await?;
        }
    }
    Ok(())
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let surveyor = Surveyor::new();
    let mut events = surveyor.events();
    let address = surveyor.listen("tcp://127.0.0.1:0").await?.address;
    let mut services = JoinSet::new();
    let names = ["printer-1", "printer-2", "scanner"];
    for name in names {
        services.spawn(service(name, address.clone()));
    }
    // A survey asks those who are connected.
    let mut connected = 0;
    while connected < names.len() {
        if let Some(Event::PipeAdded(_)) = events.recv().await {
            connected += 1;
        }
    }

    let survey = surveyor.survey("who can print?").await?;
    let found: BTreeSet<String> = survey
        .into_stream()
        .map(|answer| String::from_utf8_lossy(&answer).into_owned())
        .collect()
        .await;
    println!("found {found:?}");
    assert_eq!(found.len(), 2);
    services.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}
