/** One control connection from hello to its end. Uses belong to it and go with it. */
import { createLogger, createState, Metrics, type Context, type SourceContext } from "./context.js";
import { Channel, type HostLink } from "./link.js";
import { ContractError, errorText, excerpt, list, milliseconds, parseObject, text, unsigned, type Fields, type Limits } from "./message.js";
import type { PluginOptions, Symbols } from "./plugin.js";
import { FunctionRun } from "./function.js";
import { SinkRun } from "./sink.js";
import { SourceRun } from "./source.js";
import { Connection, LimitError, PAIR, PULL, PUSH } from "./sp.js";

const COMMAND_TIMEOUT = 5000;
const DROP_GRACE = 2000;
const BROKEN_IN_ROW = 10; // messages that break the contract, until the connection is closed
const MOST_USES = 4096;
const QUEUED = 1024; // control messages that wait to be written
const FIRST_LIMIT = 1 << 20;
const WELCOME_TIMEOUT = 10_000;

/** The host does not want this plugin. */
export class RefusedError extends Error {
  constructor(readonly reason: string) {
    super(`refused by the host: ${reason}`);
  }
}

/** A use after its start. */
export interface Run {
  /** Ends the use in order, for as long as `late` is not aborted, and returns what the answer holds. */
  stop(late: AbortSignal, seq: number | undefined): Promise<unknown>;
  /** Ends it at once; resolves when nothing of the symbol runs any more. */
  drop(): Promise<void>;
}

/** What runs have of their session. */
export interface Owner {
  readonly limits: Limits;
  readonly options: Required<PluginOptions>;
  /** Waits until fewer messages wait to be written. */
  room(): Promise<void>;
  /** Queues a message; a function makes it when its turn comes. */
  send(message: object | (() => object)): void;
}

/** A use from its start to the end of its stop. */
interface Entry {
  abort: AbortController;
  started: Promise<Run>;
  stopping: Promise<unknown> | undefined;
}

type Queued = object | (() => object);

export class Session implements Owner {
  limits: Limits = { message: 32 << 20, batch: 1024 };
  readonly #uses = new Map<number, Entry>();
  readonly #asked = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  readonly #ended = new AbortController();
  #connection!: Connection;
  #queue: Queued[] = [];
  #writing = false;
  #room: (() => void)[] = [];
  #lastId = 0;
  #heard = Date.now();
  #shutdown: Promise<void> | undefined;

  constructor(
    private readonly symbols: Symbols,
    private readonly name: string,
    readonly options: Required<PluginOptions>,
    private readonly link: HostLink,
  ) {
    this.#ended.signal.addEventListener("abort", () => {
      for (const { reject } of this.#asked.values()) reject(new Error("the connection to the host is gone"));
      this.#room.splice(0).forEach((wake) => wake());
    });
  }

  /** Resolves when the host or `stop` has asked for the end, rejects when the connection breaks. */
  async serve(stop: AbortSignal): Promise<void> {
    this.#connection = await this.link.dial(this.link.control, PAIR, FIRST_LIMIT, stop);
    const close = (): void => this.#connection.close();
    let watch: NodeJS.Timeout | undefined;
    const shutdown = (): void => void this.#shutDown(this.options.stopTimeout);
    try {
      const messages = this.#connection.messages();
      stop.addEventListener("abort", close);
      watch = setTimeout(close, WELCOME_TIMEOUT);
      const interval = await this.#hello(messages);
      clearTimeout(watch);
      stop.removeEventListener("abort", close);
      stop.addEventListener("abort", shutdown);
      if (stop.aborted) shutdown();
      watch = setInterval(() => this.#watch(interval), interval);
      await this.#read(messages);
    } finally {
      clearInterval(watch);
      stop.removeEventListener("abort", close);
      stop.removeEventListener("abort", shutdown);
      close();
      this.#ended.abort();
      await this.#drop();
    }
    if (this.#shutdown === undefined) throw new Error("closed by the host");
  }

  /** Opens the conversation and returns the interval of pings, in milliseconds. */
  async #hello(messages: AsyncGenerator<Buffer>): Promise<number> {
    const functions = [...this.symbols.functions].map(([name, f]) => (f.aggregate === true ? { name, aggregate: true } : name));
    await this.#connection.send(
      JSON.stringify({
        type: "hello",
        versions: [1],
        token: this.link.token,
        plugin: this.name,
        sdk: "mangrove-node/0.1.0",
        symbols: { sources: [...this.symbols.sources.keys()], sinks: [...this.symbols.sinks.keys()], functions },
        encodings: ["json"],
      }),
    );
    for (let broken = 0; broken < BROKEN_IN_ROW; broken++) {
      const next = await messages.next();
      if (next.done === true) throw new Error("closed by the host before its welcome");
      try {
        const message = parseObject(next.value);
        if (message["type"] === "refused") throw new RefusedError(text(message, "reason"));
        if (message["type"] !== "welcome") continue;
        if (message["version"] !== 1) throw new RefusedError(`it speaks version ${excerpt(message["version"])}, this SDK version 1`);
        const limits = (message["limits"] ?? {}) as Fields;
        this.limits = { message: unsigned(limits, "message", 32 << 20), batch: Math.max(unsigned(limits, "batch", 1024), 1) };
        this.#connection.limit = this.limits.message;
        return Math.max(milliseconds(message, "pingInterval", 10_000), 1);
      } catch (error) {
        if (!(error instanceof ContractError)) throw error;
        console.error(`expected welcome or refused, the host sent ${excerpt(next.value)}: ${error.message}`);
      }
    }
    throw new Error("no welcome");
  }

  async #read(messages: AsyncGenerator<Buffer>): Promise<void> {
    let broken = 0;
    for await (const message of messages) {
      this.#heard = Date.now();
      await this.room();
      try {
        this.#handle(parseObject(message));
        broken = 0;
      } catch (error) {
        console.error(`control message ${excerpt(message)}: ${errorText(error)}`);
        if (++broken === BROKEN_IN_ROW) throw new Error(`${broken} messages in a row that break the contract`);
      }
    }
  }

  /** Does what a message asks for, without waiting for a symbol. Throws when the message breaks the contract. */
  #handle(message: Fields): void {
    const type = message["type"];
    if (typeof type !== "string") throw new ContractError("expected a text as type");
    if (type === "answer") return this.#answered(message);
    if (type === "shutdown") return void this.#shutDown(milliseconds(message, "timeout", this.options.stopTimeout));
    if (type === "commit") {
      const entry = this.#uses.get(unsigned(message, "use"));
      const seq = unsigned(message, "seq");
      entry?.started.then((run) => run instanceof SourceRun && run.commit(seq)).catch(() => {});
      return;
    }
    const requests = ["start", "stop", "validate", "ping"];
    if (message["id"] === undefined && !requests.includes(type)) return;
    const id = unsigned(message, "id");
    let answer: Promise<unknown>;
    let broken: unknown;
    try {
      answer = this.#request(type, message);
    } catch (error) {
      broken = error instanceof ContractError ? error : undefined;
      answer = Promise.reject(error);
    }
    answer.then(
      (value) => this.send(value === undefined ? { type: "answer", id } : { type: "answer", id, value }),
      (error: unknown) => this.send({ type: "answer", id, error: errorText(error) }),
    );
    if (broken !== undefined) throw broken;
  }

  #request(type: string, message: Fields): Promise<unknown> {
    switch (type) {
      case "ping":
        return Promise.resolve();
      case "start":
        return this.#start(message);
      case "stop": {
        const use = unsigned(message, "use");
        const seq = message["seq"] === undefined ? undefined : unsigned(message, "seq");
        if (this.#uses.get(use)?.stopping !== undefined) return Promise.reject(new Error(`use ${use} is being stopped already`));
        return this.#stop(use, milliseconds(message, "timeout", COMMAND_TIMEOUT), seq);
      }
      case "validate":
        return this.#validate(text(message, "symbol"), list(message, "args"));
      default:
        return Promise.reject(new Error(`unknown request ${excerpt(type)}`));
    }
  }

  #answered(message: Fields): void {
    const id = unsigned(message, "id");
    const asked = this.#asked.get(id);
    // Any other may be the late answer to a request that was given up.
    if (asked === undefined && (id === 0 || id > this.#lastId)) throw new ContractError(`an answer to request ${id}, which was never sent`);
    this.#asked.delete(id);
    if (message["error"] === undefined || message["error"] === null) asked?.resolve(message["value"] ?? null);
    else asked?.reject(new Error(String(message["error"])));
  }

  #start(message: Fields): Promise<unknown> {
    const use = unsigned(message, "use");
    if (this.#uses.has(use)) return Promise.reject(new Error(`use ${use} is started already`));
    if (this.#uses.size >= MOST_USES) return Promise.reject(new Error(`${MOST_USES} uses are open, no more can be`));
    const abort = new AbortController();
    const started = this.#open(use, message, abort.signal);
    this.#uses.set(use, { abort, started, stopping: undefined });
    return started.then(
      () => undefined,
      (error: unknown) => {
        this.#uses.delete(use);
        throw error;
      },
    );
  }

  /** Opens a symbol, then its data channel. */
  async #open(use: number, message: Fields, signal: AbortSignal): Promise<Run> {
    const kind = text(message, "kind");
    const symbol = text(message, "symbol");
    const address = text(message, "address");
    const config = message["config"] ?? {};
    if (typeof config !== "object" || Array.isArray(config)) throw new ContractError(`config: expected an object, not ${excerpt(config)}`);
    const metrics = new Metrics((note) => this.send(note), use);
    const context: SourceContext = {
      symbol,
      ruleId: text(message, "ruleId"),
      opId: text(message, "opId"),
      instanceId: unsigned(message, "instanceId", 0),
      dataSource: text(message, "dataSource"),
      offset: message["offset"],
      signal,
      log: createLogger(this, use),
      state: createState(this, use),
      counter: (name) => metrics.counter(name),
      gauge: (name) => metrics.gauge(name),
    };
    const channel = async (protocol: typeof PAIR | typeof PUSH | typeof PULL): Promise<Channel> => {
      signal.throwIfAborted();
      const channel = await Channel.open(this.link, address, protocol, this.limits.message);
      if (!signal.aborted) return channel;
      channel.close();
      throw signal.reason;
    };
    switch (kind) {
      case "source": {
        const open = this.symbols.sources.get(symbol);
        if (open === undefined) throw new Error(`no source ${excerpt(symbol)}`);
        const source = await open(config as never, context);
        return new SourceRun(this, use, metrics, source, await channel(PUSH), signal);
      }
      case "sink": {
        const open = this.symbols.sinks.get(symbol);
        if (open === undefined) throw new Error(`no sink ${excerpt(symbol)}`);
        // A sink is not told to end before it has collected what it was handed.
        const ended = new AbortController();
        const sink = await open(config as never, { ...context, signal: ended.signal } as Context);
        try {
          return new SinkRun(this, use, metrics, sink, await channel(PULL), ended, message["ack"] === true);
        } catch (error) {
          await sink.close?.();
          throw error;
        }
      }
      case "function": {
        const definition = this.symbols.functions.get(symbol);
        if (definition === undefined) throw new Error(`no function ${excerpt(symbol)}`);
        return new FunctionRun(this, this, use, metrics, symbol, definition.exec, await channel(PAIR));
      }
      default:
        throw new Error(`no kind of symbol is called ${excerpt(kind)}`);
    }
  }

  async #validate(symbol: string, args: unknown[]): Promise<void> {
    const definition = this.symbols.functions.get(symbol);
    if (definition === undefined) throw new Error(`no function ${excerpt(symbol)}`);
    await definition.validate?.(args);
  }

  /** Stops a use; what stops already is waited for. */
  #stop(use: number, timeout: number, seq: number | undefined): Promise<unknown> {
    const entry = this.#uses.get(use);
    if (entry === undefined) return Promise.reject(new Error(`use ${use} is not running`));
    entry.stopping ??= this.#stopEntry(entry, timeout, seq).finally(() => this.#uses.delete(use));
    return entry.stopping;
  }

  async #stopEntry(entry: Entry, timeout: number, seq: number | undefined): Promise<unknown> {
    // A little earlier than the host gives up, so that it hears why.
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), timeout * 0.8);
    const end = (): void => late.abort();
    this.#ended.signal.addEventListener("abort", end);
    try {
      entry.abort.abort(new Error("stopped")); // ends a source, or the opening
      const run = await Promise.race([entry.started.catch(() => undefined), aborted(late.signal, "opening does not end")]);
      return await run?.stop(late.signal, seq);
    } finally {
      clearTimeout(timer);
      this.#ended.signal.removeEventListener("abort", end);
    }
  }

  /** Ends all uses as by stop, then the connection. */
  #shutDown(timeout: number): Promise<void> {
    this.#shutdown ??= (async () => {
      await Promise.all(
        [...this.#uses.keys()].map((use) =>
          this.#stop(use, timeout, undefined).catch((error: unknown) => this.send({ type: "error", use, error: errorText(error) })),
        ),
      );
      const late = AbortSignal.timeout(DROP_GRACE);
      const tooLate = aborted(late, "late").catch(() => {});
      while (this.#queue.length > 0 && !late.aborted && !this.#ended.signal.aborted) {
        await Promise.race([new Promise<void>((resolve) => this.#room.push(resolve)), tooLate]);
      }
      this.#connection.close();
    })();
    return this.#shutdown;
  }

  /** Waits until the uses are gone that went with the connection. */
  async #drop(): Promise<void> {
    const uses = [...this.#uses.values()];
    this.#uses.clear();
    if (uses.length === 0) return;
    const gone = Promise.all(
      uses.map(async ({ abort, started }) => {
        abort.abort(new Error("the connection to the host is gone"));
        await (await started.catch(() => undefined))?.drop();
      }),
    );
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<string>((resolve) => (timer = setTimeout(resolve, DROP_GRACE, "late")));
    if ((await Promise.race([gone, late])) === "late") console.error("a symbol goes on although it was told to end");
    clearTimeout(timer);
  }

  async room(): Promise<void> {
    while (this.#queue.length >= QUEUED && !this.#ended.signal.aborted) await new Promise<void>((resolve) => this.#room.push(resolve));
  }

  offer(note: object): boolean {
    if (this.#queue.length < QUEUED) this.send(note);
    return !this.#ended.signal.aborted;
  }

  send(message: Queued): void {
    if (this.#ended.signal.aborted) return;
    this.#queue.push(message);
    if (!this.#writing) void this.#write();
  }

  async #write(): Promise<void> {
    this.#writing = true;
    // What is queued until the end of this turn may still grow: acknowledgements do.
    await new Promise((resolve) => setImmediate(resolve));
    try {
      while (this.#queue.length > 0) {
        const queue = this.#queue.slice(0, 64);
        for (const message of queue) {
          const encoded = JSON.stringify(typeof message === "function" ? (message as () => object)() : message);
          if (Buffer.byteLength(encoded) > this.limits.message) console.error("control message over the limit:", excerpt(encoded));
          else await this.#connection.send(encoded);
        }
        this.#queue.splice(0, queue.length);
        this.#room.splice(0).forEach((wake) => wake());
      }
    } catch {
      this.#queue = [];
      this.#connection.close();
    }
    this.#writing = false;
  }

  async ask(request: { type: string; [key: string]: unknown }): Promise<unknown> {
    await this.room();
    if (this.#ended.signal.aborted) throw new Error("the connection to the host is gone");
    const id = ++this.#lastId;
    const message = { ...request, id };
    const size = Buffer.byteLength(JSON.stringify(message));
    if (size > this.limits.message) throw new LimitError(`${request.type} of ${size} bytes, at most ${this.limits.message} are sent`);
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        this.#asked.set(id, { resolve, reject });
        timer = setTimeout(() => reject(new Error(`no answer to ${request.type} within ${COMMAND_TIMEOUT} ms`)), COMMAND_TIMEOUT);
        this.send(message);
      });
    } finally {
      clearTimeout(timer);
      this.#asked.delete(id);
    }
  }

  /** Closes a connection on which nothing is heard, not even the answer to a ping. */
  #watch(interval: number): void {
    if (Date.now() - this.#heard < interval) return;
    const before = this.#heard;
    this.ask({ type: "ping" }).catch(() => {
      if (this.#heard === before && !this.#ended.signal.aborted) {
        console.error("the host does not answer pings");
        this.#connection.close();
      }
    });
  }
}

/** Rejects with this text when the signal is aborted. */
export function aborted(signal: AbortSignal, text: string): Promise<never> {
  return new Promise((_, reject) => {
    const end = (): void => reject(new Error(text));
    if (signal.aborted) end();
    else signal.addEventListener("abort", end, { once: true });
  });
}
