/**
 * The Node SDK for plugins of Mangrove, a streaming rule host. A plugin is a program of its own that holds any number
 * of symbols: sources bring data in, sinks take results out, functions are called inside SQL.
 *
 * What a symbol throws is an error of that source, result or call; the others go on. What it throws outside of the
 * promises that it has returned ends the process, as everywhere in Node. When the connection to the host breaks, every
 * use of a symbol is dropped, and the host starts them again.
 */
export { Plugin, VERSION, type Exec, type FunctionOptions, type OpenSink, type OpenSource, type PluginOptions } from "./plugin.js";
export { Tuple, type Extra, type Output, type RunSource, type Source } from "./source.js";
export { rows, type Result, type Sink } from "./sink.js";
export type { CallContext, Context, Logger, SourceContext, State } from "./context.js";
export type { Json } from "./message.js";
export { RefusedError } from "./session.js";
export { NoHostError } from "./link.js";
export { LimitError } from "./sp.js";
