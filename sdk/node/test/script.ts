/** A host over real sockets that says what the test tells it to. */
import assert from "node:assert/strict";
import { mkdtempSync } from "node:fs";
import * as net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Plugin } from "../src/index.js";
import type { HostLink } from "../src/link.js";
import { Connection, PAIR, PULL, PUSH, type Protocol } from "../src/sp.js";

export const LIMIT = 32 << 20;
export const BATCH = 1024;
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Message = Record<string, any>;

/** The host's end of a channel. */
export class End {
  readonly messages: AsyncGenerator<Buffer, void, void>;

  constructor(readonly connection: Connection) {
    this.messages = connection.messages();
  }

  write(message: object): Promise<void> {
    return this.connection.send(JSON.stringify(message));
  }

  async read(): Promise<Message> {
    const next = await this.messages.next();
    assert.ok(next.done !== true, "the plugin has closed the channel");
    return JSON.parse(next.value.toString()) as Message;
  }

  /** Reads messages until one of this type comes. */
  async next(type: string): Promise<Message> {
    for (;;) {
      const message = await this.read();
      if (message["type"] === type) return message;
    }
  }
}

/** Accepts the connections of one address. */
export class Listener {
  readonly #accepted: net.Socket[] = [];
  readonly #waiting: ((stream: net.Socket) => void)[] = [];

  private constructor(
    readonly server: net.Server,
    readonly address: string,
    private readonly protocol: Protocol,
    private readonly typed: boolean,
  ) {
    server.on("connection", (stream) => {
      const taken = this.#waiting.shift();
      if (taken === undefined) this.#accepted.push(stream);
      else taken(stream);
    });
    server.unref();
  }

  static async open(protocol: Protocol, kind: "ipc" | "tcp" = "ipc"): Promise<Listener> {
    const server = net.createServer();
    const path = kind === "ipc" ? join(mkdtempSync(join(tmpdir(), "script-")), "s.ipc") : undefined;
    await new Promise<void>((resolve) => (path === undefined ? server.listen(0, "127.0.0.1", resolve) : server.listen(path, resolve)));
    const address = path === undefined ? `tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}` : `ipc://${path}`;
    return new Listener(server, address, protocol, path !== undefined);
  }

  async accept(): Promise<End> {
    const stream = this.#accepted.shift() ?? (await new Promise<net.Socket>((resolve) => this.#waiting.push(resolve)));
    return new End(await Connection.accept(stream, { protocol: this.protocol, limit: LIMIT, typed: this.typed }));
  }
}

export class Script {
  control!: End;
  readonly stop = new AbortController();
  ended!: Promise<void>;

  constructor(readonly listener: Listener) {}

  /** Runs the plugin and welcomes it. */
  static async play(plugin: Plugin): Promise<Script> {
    const script = await Script.run(plugin);
    await script.welcome();
    return script;
  }

  static async run(plugin: Plugin): Promise<Script> {
    const script = new Script(await Listener.open(PAIR));
    const link: HostLink = { control: script.listener.address, token: "secret", plugin: "car", dial: Connection.dial };
    script.ended = plugin.run(script.stop.signal, link);
    script.ended.catch(() => {});
    return script;
  }

  async welcome(): Promise<Message> {
    this.control = await this.listener.accept();
    const hello = await this.control.next("hello");
    await this.control.write({ type: "welcome", version: 1, host: "script", news: true, limits: { message: LIMIT, batch: BATCH }, pingInterval: 60_000 });
    return hello;
  }

  /** Sends a request and returns the answer, whose id it checks. */
  async ask(request: Message): Promise<Message> {
    await this.control.write(request);
    const answer = await this.control.next("answer");
    assert.equal(answer["id"], request["id"]);
    return answer;
  }

  /** Opens use 4 by default, and returns its data channel. */
  async start(kind: "source" | "sink" | "function", more: Message = {}): Promise<End> {
    const data = await Listener.open({ source: PULL, sink: PUSH, function: PAIR }[kind] as Protocol);
    const answered = this.ask({
      ...{ type: "start", id: 100, use: 4, kind, symbol: kind, address: data.address, ruleId: "rule1", opId: "op", instanceId: 0, config: {} },
      ...more,
    });
    const end = await data.accept();
    assert.equal((await answered)["error"], undefined);
    return end;
  }

  /** Shuts the plugin down and checks that it ends well. */
  async finish(): Promise<void> {
    await this.control.write({ type: "shutdown", timeout: 5000 });
    await this.ended;
  }
}
