//! The socket of any protocol.

use anyhow::{Context as _, Result, bail};
use sp_proto::{
    Bus, Events, Message, Pair, Pair1, Protocol, Pub, Pull, Push, RecvError, Rep, ReplyError, ReqContext,
    Request, Respondent, SocketOptions, Sub, SurveyContext, Surveyor,
};

pub(crate) enum Socket {
    Bus(Bus),
    Pair(Pair),
    Pair1(Pair1),
    Pub(Pub),
    Pull(Pull),
    Push(Push),
    Rep(Rep),
    Req(sp_proto::Req),
    Respondent(Respondent),
    Sub(Sub),
    Surveyor(Surveyor),
}

/// Does the same with the socket of any protocol.
macro_rules! each {
    ($self:expr, $socket:ident => $result:expr) => {
        match $self {
            Socket::Bus($socket) => $result,
            Socket::Pair($socket) => $result,
            Socket::Pair1($socket) => $result,
            Socket::Pub($socket) => $result,
            Socket::Pull($socket) => $result,
            Socket::Push($socket) => $result,
            Socket::Rep($socket) => $result,
            Socket::Req($socket) => $result,
            Socket::Respondent($socket) => $result,
            Socket::Sub($socket) => $result,
            Socket::Surveyor($socket) => $result,
        }
    };
}

impl Socket {
    pub(crate) fn new(protocol: Protocol, options: SocketOptions) -> Self {
        match protocol {
            Protocol::Bus => Self::Bus(Bus::with_options(options)),
            Protocol::Pair0 => Self::Pair(Pair::with_options(options)),
            Protocol::Pair1 => Self::Pair1(Pair1::with_options(options)),
            Protocol::Pub => Self::Pub(Pub::with_options(options)),
            Protocol::Pull => Self::Pull(Pull::with_options(options)),
            Protocol::Push => Self::Push(Push::with_options(options)),
            Protocol::Rep => Self::Rep(Rep::with_options(options)),
            Protocol::Req => Self::Req(sp_proto::Req::with_options(options)),
            Protocol::Respondent => Self::Respondent(Respondent::with_options(options)),
            Protocol::Sub => Self::Sub(Sub::with_options(options)),
            Protocol::Surveyor => Self::Surveyor(Surveyor::with_options(options)),
        }
    }

    pub(crate) fn events(&self) -> Events {
        each!(self, socket => socket.events())
    }

    /// Gives the concrete address.
    pub(crate) async fn listen(&self, address: &str) -> Result<String> {
        let listening = each!(self, socket => socket.listen(address).await);
        Ok(listening
            .with_context(|| format!("cannot listen on {address}"))?
            .address)
    }

    pub(crate) async fn dial(&self, address: &str, in_background: bool) -> Result<()> {
        if in_background {
            each!(self, socket => socket.dial_in_background(address))?;
        } else {
            each!(self, socket => socket.dial(address).await)?;
        }
        Ok(())
    }

    pub(crate) async fn close(&self) {
        each!(self, socket => socket.close().await);
    }

    /// Sends, where that needs no request.
    pub(crate) async fn send(&self, message: Message) -> Result<()> {
        let sent = match self {
            Self::Bus(socket) => socket.send(message).await,
            Self::Pair(socket) => socket.send(message).await,
            Self::Pair1(socket) => socket.send(message).await,
            Self::Pub(socket) => socket.send(message).await,
            Self::Push(socket) => socket.send(message).await,
            _ => bail!("such a socket only asks, answers or receives"),
        };
        Ok(sent?)
    }

    /// The next message, a request too, or `None` when none comes any more.
    pub(crate) async fn recv(&self) -> Result<Option<Incoming>> {
        let received = match self {
            Self::Bus(socket) => socket.recv().await.map(Incoming::Message),
            Self::Pair(socket) => socket.recv().await.map(Incoming::Message),
            Self::Pair1(socket) => socket.recv().await.map(Incoming::Message),
            Self::Pull(socket) => socket.recv().await.map(Incoming::Message),
            Self::Sub(socket) => socket.recv().await.map(Incoming::Message),
            Self::Rep(socket) => socket.recv().await.map(Incoming::Request),
            Self::Respondent(socket) => socket.recv().await.map(Incoming::Request),
            _ => bail!("such a socket only asks or sends"),
        };
        ended(received)
    }

    /// Asks, where that is what the socket does.
    pub(crate) async fn ask(&self, message: Message) -> Result<Answers> {
        match self {
            Self::Req(socket) => {
                let mut context = socket.context();
                context.send(message).await?;
                Ok(Answers::Reply(context))
            }
            Self::Surveyor(socket) => Ok(Answers::Responses(socket.survey(message).await?)),
            _ => bail!("such a socket does not ask"),
        }
    }
}

/// What is received.
pub(crate) enum Incoming {
    Message(Message),
    Request(Request),
}

impl Incoming {
    pub(crate) fn body(&self) -> &[u8] {
        match self {
            Self::Message(message) => message,
            Self::Request(request) => request.body(),
        }
    }

    /// Answers a request.
    pub(crate) async fn reply(self, message: Message) -> Result<(), ReplyError> {
        match self {
            Self::Message(_) => Ok(()),
            Self::Request(request) => request.reply(message).await,
        }
    }
}

/// What comes of a question.
pub(crate) enum Answers {
    Reply(ReqContext),
    Responses(SurveyContext),
}

impl Answers {
    /// The next answer, or `None` when none comes any more.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>> {
        ended(match self {
            Self::Reply(context) => context.recv().await,
            Self::Responses(context) => context.recv().await,
        })
    }
}

/// A time limit and the end of a conversation are no failures.
fn ended<T>(received: Result<T, RecvError>) -> Result<Option<T>> {
    match received {
        Ok(message) => Ok(Some(message)),
        Err(RecvError::Closed) => bail!(RecvError::Closed),
        Err(_) => Ok(None),
    }
}
