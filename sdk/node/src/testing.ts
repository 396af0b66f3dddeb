/**
 * A host for the tests of plugins: it lives in the test, without a process or a socket, and speaks to the plugin as a
 * real host does.
 *
 *     const host = await TestHost.start(plugin);
 *     const source = await host.source("ticker", { config: { interval: 1 } });
 *     const event = await source.next();
 *     assert.equal(await host.call("rule1", "shout", "hello"), "HELLO");
 *     await host.stop();
 */
import { Duplex } from "node:stream";
import { parseObject, type Fields, type Json } from "./message.js";
import type { Plugin } from "./plugin.js";
import { Connection, type Protocol, PAIR, PULL, PUSH } from "./sp.js";

const LIMIT = 32 << 20;
const TIMEOUT = 10_000; // milliseconds for everything that a plugin has to do

/** For whom a symbol is started. */
export interface Use {
  config?: object;
  /** Of a source. */
  dataSource?: string;
  /** "rule" by default. */
  rule?: string;
  /** Where a source goes on. */
  offset?: unknown;
  /** False for a sink that does not acknowledge. */
  ack?: boolean;
}

/** What a source has sent: a tuple, or an error that it survived. */
export interface Event {
  tuple?: Record<string, Json>;
  meta?: Json;
  /** Of the last tuple of a batch. */
  offset?: Json;
  error?: string;
}

/** A line that the plugin has logged. */
export interface Log {
  level: string;
  message: string;
  fields?: Record<string, Json>;
}

interface Waiting {
  resolve(value: Json): void;
  reject(error: Error): void;
}

/** Runs one plugin. */
export class TestHost {
  /** The lines that have arrived so far. */
  readonly logs: Log[] = [];
  readonly #stop = new AbortController();
  readonly #listening = new Map<string, (connection: Connection) => void>();
  readonly #asked = new Map<number, Waiting>();
  readonly #notes = new Map<number, (note: Fields) => void>();
  readonly #scopes = new Map<number, string>();
  readonly #state = new Map<string, Map<string, Json>>();
  readonly #metrics = new Map<string, number>();
  readonly #functions = new Map<string, Promise<Connection>>();
  readonly #calls = new Map<number, Waiting>();
  #control!: Connection;
  #ended: Promise<void> = Promise.resolve();
  #lastId = 0;

  private constructor() {}

  /** Runs the plugin until `stop`. */
  static async start(plugin: Plugin): Promise<TestHost> {
    const host = new TestHost();
    const control = host.#listen("control");
    host.#ended = plugin.run(host.#stop.signal, {
      control: "control",
      token: "",
      plugin: "test",
      dial: (address, protocol, limit, signal) => host.#dial(address, protocol, limit, signal),
    });
    const ended = host.#ended.then(() => Promise.reject(new Error("the plugin has ended")));
    ended.catch(() => {});
    host.#control = await inTime(Promise.race([control, ended]), "the plugin does not connect");
    const messages = host.#control.messages();
    await inTime(messages.next(), "the plugin does not say hello");
    await host.#send({ type: "welcome", version: 1, host: "testing", limits: { message: LIMIT, batch: 1024 }, pingInterval: 3_600_000 });
    void host.#read(messages);
    return host;
  }

  /** Shuts the plugin down, as SIGTERM does; rejects when it does not end in order. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await inTime(this.#ended, "the plugin does not end");
  }

  /** A counter or gauge over all uses, as far as it has arrived; all of a use has when its `stop` is done. */
  metric(name: string): number | undefined {
    return this.#metrics.get(name);
  }

  /** What a symbol has put under a key for a rule. */
  state(symbol: string, rule: string, key: string): Json | undefined {
    return this.#state.get(`${symbol} ${rule}`)?.get(key);
  }

  /** Starts a source; rejects with what opening it has thrown. */
  async source(symbol: string, use: Use = {}): Promise<TestSource> {
    const { id, connection } = await this.#start("source", symbol, use);
    return new TestSource(connection, () => this.#ask({ type: "stop", use: id, timeout: TIMEOUT }), (seq) => this.#send({ type: "commit", use: id, seq }));
  }

  /** Starts a sink; rejects with what opening it has thrown. */
  async sink(symbol: string, use: Use = {}): Promise<TestSink> {
    const { id, connection } = await this.#start("sink", symbol, use);
    const sink = new TestSink(connection, use.ack ?? true, (seq) => this.#ask({ type: "stop", use: id, timeout: TIMEOUT, seq }));
    this.#notes.set(id, (note) => sink.note(note));
    return sink;
  }

  /** Calls a function in a rule; its first call starts it. */
  async call(rule: string, symbol: string, ...args: unknown[]): Promise<Json> {
    let opened = this.#functions.get(symbol);
    if (opened === undefined) {
      opened = this.#start("function", symbol, {}).then(({ connection }) => {
        void this.#results(connection);
        return connection;
      });
      this.#functions.set(symbol, opened);
    }
    const connection = await opened;
    const id = ++this.#lastId;
    const result = new Promise<Json>((resolve, reject) => this.#calls.set(id, { resolve, reject }));
    const context = { ruleId: rule, opId: "op", instanceId: 0, funcId: 0 };
    await connection.send(JSON.stringify({ context, timeout: TIMEOUT, calls: [[id, args]] }));
    return inTime(result, `${symbol} does not return`);
  }

  /** Checks arguments, as a host does when a rule is made. Others than literals are given as their SQL text. */
  async validate(symbol: string, ...args: unknown[]): Promise<void> {
    await this.#ask({ type: "validate", symbol, args });
  }

  async #results(connection: Connection): Promise<void> {
    for await (const message of connection.messages()) {
      const { results = [], errors = [] } = parseObject(message) as { results?: [number, Json][]; errors?: [number, string][] };
      for (const [id, value] of results) this.#calls.get(id)?.resolve(value);
      for (const [id, text] of errors) this.#calls.get(id)?.reject(new Error(text));
      for (const [id] of [...results, ...errors]) this.#calls.delete(id);
    }
  }

  #listen(address: string): Promise<Connection> {
    return new Promise((resolve) => this.#listening.set(address, resolve));
  }

  async #dial(address: string, protocol: Protocol, limit: number, signal: AbortSignal): Promise<Connection> {
    const accepted = this.#listening.get(address);
    if (accepted === undefined) throw new Error(`nobody listens on ${address}`);
    this.#listening.delete(address);
    const [ours, theirs] = duplexPair();
    const peer = protocol === PUSH ? PULL : protocol === PULL ? PUSH : PAIR;
    void Connection.accept(ours, { protocol: peer, limit, typed: false }).then(accepted, () => {});
    return Connection.over(theirs, { protocol, limit, typed: false }, signal);
  }

  async #start(kind: string, symbol: string, use: Use): Promise<{ id: number; connection: Connection }> {
    const id = ++this.#lastId;
    const address = `use-${id}`;
    const ruleId = kind === "function" ? "" : (use.rule ?? "rule");
    this.#scopes.set(id, `${symbol} ${ruleId}`);
    const accepted = this.#listen(address);
    const { config = {}, dataSource, offset, ack = true } = use;
    await this.#ask({ type: "start", use: id, kind, symbol, address, ruleId, opId: "op", instanceId: 0, config, dataSource, offset, ack });
    return { id, connection: await inTime(accepted, `${symbol} does not connect`) };
  }

  #send(message: object): Promise<void> {
    return this.#control.send(JSON.stringify(message));
  }

  #ask(request: { type: string; [key: string]: unknown }): Promise<Json> {
    const id = ++this.#lastId;
    const answer = new Promise<Json>((resolve, reject) => {
      this.#asked.set(id, { resolve, reject });
      this.#send({ ...request, id }).catch(reject);
    });
    return inTime(answer, `no answer to ${request.type}`);
  }

  async #read(messages: AsyncGenerator<Buffer>): Promise<void> {
    for await (const message of messages) this.#handle(parseObject(message));
    for (const { reject } of [...this.#asked.values(), ...this.#calls.values()]) reject(new Error("the plugin has ended"));
  }

  #handle(message: Fields): void {
    const id = message["id"] as number;
    switch (message["type"]) {
      case "answer":
        if (typeof message["error"] === "string") this.#asked.get(id)?.reject(new Error(message["error"]));
        else this.#asked.get(id)?.resolve((message["value"] ?? null) as Json);
        this.#asked.delete(id);
        break;
      case "log":
        this.logs.push(message as unknown as Log);
        break;
      case "metric": {
        const before = message["kind"] === "counter" ? (this.#metrics.get(message["name"] as string) ?? 0) : 0;
        this.#metrics.set(message["name"] as string, before + (message["value"] as number));
        break;
      }
      case "ack":
      case "error":
        this.#notes.get(message["use"] as number)?.(message);
        break;
      default:
        try {
          void this.#send({ type: "answer", id, value: this.#keep(message) }).catch(() => {});
        } catch (error) {
          void this.#send({ type: "answer", id, error: (error as Error).message }).catch(() => {});
        }
    }
  }

  /** The host's side of state. */
  #keep(request: Fields): Json {
    if (request["type"] === "ping") return null;
    const key = String(request["key"]);
    const size = Buffer.byteLength(key);
    if (size < 1 || size > 256) throw new Error(`a key of ${size} bytes, expected 1 to 256`);
    const scope = `${this.#scopes.get(request["use"] as number)}${(request["rule"] as string | undefined) ?? ""}`;
    const values = this.#state.get(scope) ?? new Map<string, Json>();
    this.#state.set(scope, values);
    switch (request["type"]) {
      case "put":
        if (Buffer.byteLength(JSON.stringify(request["value"])) > 1 << 20) throw new Error("a value of more than 1 MiB");
        values.set(key, request["value"] as Json);
        return null;
      case "delete":
        values.delete(key);
        return null;
      case "add": {
        const before = values.get(key) ?? 0;
        if (typeof before !== "number") throw new Error(`${JSON.stringify(key)} is not a number`);
        values.set(key, before + (request["by"] as number));
      }
    }
    return values.get(key) ?? null;
  }
}

/** A source at work. */
export class TestSource {
  readonly #events: AsyncGenerator<Event, void, void>;
  #seq = 0;

  constructor(
    connection: Connection,
    private readonly ask: () => Promise<Json>,
    /** Tells the source that everything up to this batch is safe. */
    readonly commit: (seq: number) => Promise<void>,
  ) {
    this.#events = this.#read(connection);
  }

  async *#read(connection: Connection): AsyncGenerator<Event, void, void> {
    for await (const message of connection.messages()) {
      const batch = parseObject(message) as { seq: number; tuples?: []; meta?: []; offset?: Json; error?: string; end?: boolean };
      if (batch.seq !== this.#seq + 1) throw new Error(`expected batch ${this.#seq + 1}, not ${batch.seq}`);
      this.#seq = batch.seq;
      for (const [index, tuple] of (batch.tuples ?? []).entries()) {
        const event: Event = { tuple };
        if (batch.meta?.[index] != null) event.meta = batch.meta[index];
        if (batch.offset !== undefined && index === batch.tuples!.length - 1) event.offset = batch.offset;
        yield event;
      }
      if (batch.end === true) {
        if (batch.error !== undefined) throw new Error(batch.error);
        return;
      }
      if (batch.error !== undefined) yield { error: batch.error };
    }
  }

  /** What the source sends next; undefined when it has ended by itself. Rejects with the error that ends it. */
  async next(): Promise<Event | undefined> {
    const next = await inTime(this.#events.next(), "the source sends nothing");
    return next.done === true ? undefined : next.value;
  }

  /** Ends the source and returns what it has sent since the last `next`. */
  async stop(): Promise<Event[]> {
    const rest: Event[] = [];
    const drained = (async () => {
      for await (const event of this.#events) rest.push(event);
    })();
    const { seq } = (await this.ask()) as { seq: number };
    await inTime(drained, "the source stays connected");
    if (seq !== this.#seq) throw new Error(`the source says that batch ${seq} was its last, it was ${this.#seq}`);
    return rest;
  }
}

/** A sink at work. */
export class TestSink {
  /** The errors that a sink which does not acknowledge has survived. */
  readonly errors: string[] = [];
  #seq = 0;
  #acked = new Map<number, () => void>();
  #failed: [number, string][] = [];

  constructor(
    private readonly connection: Connection,
    private readonly acks: boolean,
    private readonly ask: (seq: number) => Promise<Json>,
  ) {}

  /** @internal */
  note(note: Fields): void {
    if (note["type"] === "error") {
      this.errors.push(String(note["error"]));
      return;
    }
    this.#failed = (note["errors"] as [number, string][] | undefined) ?? [];
    this.#acked.get(note["seq"] as number)?.();
  }

  /** Hands results over, as one batch, and waits until they are acknowledged; returns those that failed. */
  async collect(...results: unknown[]): Promise<[index: number, error: string][]> {
    const seq = ++this.#seq;
    const acked = new Promise<void>((resolve) => this.#acked.set(seq, resolve));
    await this.connection.send(JSON.stringify({ seq, results }));
    if (!this.acks) return [];
    await inTime(acked, "the sink does not acknowledge");
    this.#acked.delete(seq);
    return this.#failed;
  }

  /** Ends the sink when it has collected everything. */
  async stop(): Promise<void> {
    await this.ask(this.#seq);
  }
}

async function inTime<T>(promise: Promise<T>, failure: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new Error(failure)), TIMEOUT)));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Two streams, each of which reads what the other writes. */
function duplexPair(): [Duplex, Duplex] {
  const [a, b] = [new Side(), new Side()];
  a.other = b;
  b.other = a;
  return [a, b];
}

class Side extends Duplex {
  other!: Side;
  #taken: ((error?: Error) => void) | undefined; // of the other's write that waits

  override _read(): void {
    const taken = this.#taken;
    this.#taken = undefined;
    taken?.();
  }

  override _write(chunk: Buffer, _encoding: string, callback: (error?: Error) => void): void {
    if (this.other.destroyed) callback(new Error("the other end is closed"));
    else if (this.other.push(chunk)) callback();
    else this.other.#taken = callback;
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#taken?.(new Error("the other end is closed"));
    if (!this.other.destroyed) this.other.push(null);
    callback(error);
  }
}
