//! Owns the object-safe forms of the author's traits, so that one registry holds symbols of all types.
//!
//! The traits that authors see use `async fn`, which can't be called through `dyn`; these box the futures.

use std::pin::Pin;
use std::sync::Arc;

use mangrove_protocol::Object;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Context, Function, Message, Output, Result, Sink, Source};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens a source of some type.
pub(crate) type OpenSource =
    for<'a> fn(String, Object, &'a Context) -> BoxFuture<'a, Result<Box<dyn AnySource>>>;

/// Opens a sink of some type.
pub(crate) type OpenSink = for<'a> fn(Object, &'a Context) -> BoxFuture<'a, Result<Box<dyn AnySink>>>;

pub(crate) trait AnySource: Send {
    fn run(self: Box<Self>, output: Output, context: Context) -> BoxFuture<'static, Result>;
}

pub(crate) trait AnySink: Send {
    fn collect<'a>(&'a mut self, message: Message, context: &'a Context) -> BoxFuture<'a, Result>;
    fn close<'a>(self: Box<Self>, context: &'a Context) -> BoxFuture<'a, Result>
    where
        Self: 'a;
}

pub(crate) trait AnyFunction: Send + Sync {
    fn validate(&self, args: &[Value]) -> Result;
    fn is_aggregate(&self) -> bool;
    fn call(self: Arc<Self>, args: Vec<Value>, context: Context) -> BoxFuture<'static, Result<Value>>;
}

impl<S: Source> AnySource for S {
    fn run(self: Box<Self>, output: Output, context: Context) -> BoxFuture<'static, Result> {
        Box::pin(Source::run(*self, output, context))
    }
}

impl<S: Sink> AnySink for S {
    fn collect<'a>(&'a mut self, message: Message, context: &'a Context) -> BoxFuture<'a, Result> {
        Box::pin(Sink::collect(self, message, context))
    }

    fn close<'a>(self: Box<Self>, context: &'a Context) -> BoxFuture<'a, Result>
    where
        Self: 'a,
    {
        Box::pin(Sink::close(*self, context))
    }
}

impl<F: Function> AnyFunction for F {
    fn validate(&self, args: &[Value]) -> Result {
        Function::validate(self, args)
    }

    fn is_aggregate(&self) -> bool {
        Function::is_aggregate(self)
    }

    fn call(self: Arc<Self>, args: Vec<Value>, context: Context) -> BoxFuture<'static, Result<Value>> {
        Box::pin(async move { Function::exec(&*self, args, &context).await })
    }
}

pub(crate) fn open_source<S: Source>(
    data_source: String,
    config: Object,
    context: &Context,
) -> BoxFuture<'_, Result<Box<dyn AnySource>>> {
    Box::pin(async move {
        let source = S::open(data_source, read_config(config)?, context).await?;
        Ok(Box::new(source) as Box<dyn AnySource>)
    })
}

pub(crate) fn open_sink<S: Sink>(
    config: Object,
    context: &Context,
) -> BoxFuture<'_, Result<Box<dyn AnySink>>> {
    Box::pin(async move {
        let sink = S::open(read_config(config)?, context).await?;
        Ok(Box::new(sink) as Box<dyn AnySink>)
    })
}

fn read_config<T: DeserializeOwned>(config: Object) -> Result<T> {
    serde_json::from_value(Value::Object(config))
        .map_err(|error| format!("the configuration cannot be read: {error}").into())
}
