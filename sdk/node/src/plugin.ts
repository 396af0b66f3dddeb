/** The set of symbols of a program, and its life with the host. */
import { Backoff, linkFromEnvironment, NoHostError, pause, type HostLink } from "./link.js";
import { errorText } from "./message.js";
import type { CallContext, Context, SourceContext } from "./context.js";
import type { Source } from "./source.js";
import type { Sink } from "./sink.js";
import { Session, RefusedError } from "./session.js";

export const VERSION = "0.1.0";

/** Opens a source for one use. What it throws is what the host shows for a stream that doesn't start. */
export type OpenSource<C> = (config: C, context: SourceContext) => Source | Promise<Source>;
/** Opens a sink for one use. What it throws is what the host shows for a rule that doesn't start. */
export type OpenSink<C> = (config: C, context: Context) => Sink | Promise<Sink>;
/** Makes one call. Arguments and result are JSON; of an aggregate each argument is the list of a column's values. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Exec = (args: any[], context: CallContext) => unknown;

export interface FunctionOptions {
  /** It is called once for a group of rows. */
  aggregate?: boolean;
  /** Throws when a rule calls the function wrongly. Literals are given as values, other arguments as their SQL text. */
  validate?: (args: unknown[]) => void | Promise<void>;
}

export interface PluginOptions {
  /** Milliseconds that symbols may take to end after SIGTERM, or when the host gives no time of its own; 5000. */
  stopTimeout?: number;
  /** How many calls of one function run at a time; others wait; 4096. */
  callLimit?: number;
}

export interface Symbols {
  readonly sources: ReadonlyMap<string, OpenSource<never>>;
  readonly sinks: ReadonlyMap<string, OpenSink<never>>;
  readonly functions: ReadonlyMap<string, FunctionOptions & { exec: Exec }>;
}

/** A program's set of symbols. Register them, then call `main` or `run`. */
export class Plugin implements Symbols {
  readonly sources = new Map<string, OpenSource<never>>();
  readonly sinks = new Map<string, OpenSink<never>>();
  readonly functions = new Map<string, FunctionOptions & { exec: Exec }>();
  readonly options: Required<PluginOptions>;

  /** An empty name stands for the one that the host has for it. */
  constructor(
    readonly name = "",
    options: PluginOptions = {},
  ) {
    this.options = { stopTimeout: 5000, callLimit: 4096, ...options };
  }

  /** Registers a source. */
  source<C = Record<string, unknown>>(name: string, open: OpenSource<C>): this {
    this.sources.set(name, open);
    return this;
  }

  /** Registers a sink. */
  sink<C = Record<string, unknown>>(name: string, open: OpenSink<C>): this {
    this.sinks.set(name, open);
    return this;
  }

  /** Registers a function, which may be called again before an earlier call has its result. */
  function(name: string, exec: Exec, options: FunctionOptions = {}): this {
    this.functions.set(name, { ...options, exec });
    return this;
  }

  /**
   * Runs the plugin and ends the process: with status 0 after an orderly shutdown, 1 after an error, 2 when no Mangrove
   * host has started it. SIGTERM and SIGINT shut it down.
   */
  async main(): Promise<never> {
    const stop = new AbortController();
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => stop.abort());
    try {
      await this.run(stop.signal);
    } catch (error) {
      console.error(errorText(error));
      process.exit(error instanceof NoHostError ? 2 : 1);
    }
    process.exit(0);
  }

  /**
   * Serves the host until it sends a shutdown or `stop` is aborted; all symbols are ended in order first. A broken
   * connection is dialled again for ever. Rejects with a `RefusedError`, or because there is no host.
   */
  async run(stop: AbortSignal = new AbortController().signal, link: HostLink = linkFromEnvironment(process.env)): Promise<void> {
    const backoff = new Backoff();
    while (!stop.aborted) {
      const began = Date.now();
      try {
        await new Session(this, this.name || link.plugin, this.options, link).serve(stop);
        return;
      } catch (error) {
        if (error instanceof RefusedError) throw error;
        if (stop.aborted) return;
        console.error("control connection:", errorText(error));
      }
      if (Date.now() - began > 10_000) backoff.reset();
      await pause(backoff.next(), stop).catch(() => {});
    }
  }
}
