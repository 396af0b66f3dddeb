//! What each kind of socket does.

use anyhow::{Context as _, Result};
use sp_proto::{Event, Events, Message, Protocol, SendErrorKind};
use std::io::Write as _;
use std::time::Duration;
use tokio::time::Instant;

use crate::format::Format;
use crate::options::Options;
use crate::socket::Socket;

/// Does what the command line says.
pub(crate) async fn run(options: Options) -> Result<()> {
    options.check()?;
    let data = options.data()?.map(Message::from);
    let socket = Socket::new(options.protocol(), options.socket()?);
    if let Socket::Sub(sub) = &socket {
        let everything = [String::new()];
        let topics = if options.subscribe.is_empty() {
            &everything[..]
        } else {
            &options.subscribe
        };
        for topic in topics {
            sub.subscribe(topic.clone());
        }
    }
    let events = socket.events();
    tokio::select! {
        result = converse(&socket, &options, data) => result?,
        () = tell(events, &options) => {}
        stopped = tokio::signal::ctrl_c() => stopped.context("cannot wait for an interrupt")?,
    }
    // What is queued is still written.
    socket.close().await;
    Ok(())
}

async fn converse(socket: &Socket, options: &Options, data: Option<Message>) -> Result<()> {
    for address in options.listened() {
        let bound = socket.listen(&address).await?;
        if options.verbose {
            options.say(format_args!("listening on {bound}"));
        }
    }
    for address in options.dialed() {
        socket.dial(&address, options.in_background()).await?;
    }
    let format = options.format();
    let Some(data) = data else {
        return receive(socket, options.count, format).await;
    };
    match options.protocol() {
        Protocol::Rep | Protocol::Respondent => return answer(socket, options.count, format, data).await,
        _ => tokio::time::sleep(options.delay.unwrap_or_default()).await,
    }
    let mut round = 0;
    loop {
        let begun = Instant::now();
        exchange(socket, options, &data).await?;
        round += 1;
        let once = options.interval.is_none() && options.count == 0;
        if once || round == options.count {
            return Ok(());
        }
        tokio::time::sleep_until(begun + options.interval.unwrap_or_default()).await;
    }
}

/// Sends once, and prints what comes back until the next round is due.
async fn exchange(socket: &Socket, options: &Options, data: &Message) -> Result<()> {
    let format = options.format();
    let answers = match options.protocol() {
        Protocol::Push | Protocol::Pub => return socket.send(data.clone()).await,
        Protocol::Req | Protocol::Surveyor => Some(socket.ask(data.clone()).await?),
        _ => {
            socket.send(data.clone()).await?;
            None
        }
    };
    let listening = async {
        match answers {
            Some(mut answers) => {
                while let Some(answer) = answers.next().await? {
                    print(format, &answer)?;
                }
                Ok(())
            }
            // With a count and no interval an exchange is one message each way.
            None => {
                let count = u64::from(options.interval.is_none() && options.count > 0);
                receive(socket, count, format).await
            }
        }
    };
    match options.interval {
        // An interval of zero leaves no time for what has come already.
        Some(interval) => {
            let least = interval.max(Duration::from_millis(1));
            tokio::time::timeout(least, listening).await.unwrap_or(Ok(()))
        }
        None => listening.await,
    }
}

/// Prints what comes, so many messages at most; 0 = all.
async fn receive(socket: &Socket, count: u64, format: Format) -> Result<()> {
    let mut received = 0;
    while let Some(message) = socket.recv().await? {
        print(format, message.body())?;
        received += 1;
        if received == count {
            break;
        }
    }
    Ok(())
}

async fn answer(socket: &Socket, count: u64, format: Format, data: Message) -> Result<()> {
    let mut answered = 0;
    while let Some(request) = socket.recv().await? {
        print(format, request.body())?;
        match request.reply(data.clone()).await {
            // Whoever asked has gone: the next one is served all the same.
            Err(error) if error.kind == SendErrorKind::PeerGone => {}
            result => result?,
        }
        answered += 1;
        if answered == count {
            break;
        }
    }
    Ok(())
}

fn print(format: Format, message: &[u8]) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let written = output.write_all(&format.encode(message));
    written
        .and_then(|()| output.flush())
        .context("cannot write to the standard output")
}

/// Tells of troubles, and if asked for of all else too, until the socket is closed.
async fn tell(mut events: Events, options: &Options) {
    while let Some(event) = events.recv().await {
        let trouble = matches!(
            event,
            Event::PeerRefused { .. } | Event::DialFailed { .. } | Event::AcceptFailed { .. }
        );
        if !options.silent && (trouble || options.verbose) {
            match event {
                Event::PipeAdded(pipe) => {
                    options.say(format_args!(
                        "{} is connected and speaks {}",
                        pipe.peer_address, pipe.peer
                    ));
                }
                Event::PipeRemoved { pipe, reason, .. } => {
                    options.say(format_args!("{} is gone: {reason}", pipe.peer_address));
                }
                Event::PeerRefused { peer_address, reason } => {
                    options.say(format_args!("{peer_address} is refused: {reason}"));
                }
                Event::DialFailed { reason, .. } => options.say(format_args!("{reason}")),
                Event::AcceptFailed { reason } => options.say(format_args!("cannot accept: {reason}")),
                _ => {}
            }
        }
    }
}
