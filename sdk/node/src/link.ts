/** Where a plugin's host is, and how its channels are dialled and dialled again. */
import { readFileSync } from "node:fs";
import { Connection, cut, type Protocol } from "./sp.js";

/** What a plugin is told about its host. */
export interface HostLink {
  /** Where to dial. */
  control: string;
  token: string;
  plugin: string;
  dial(address: string, protocol: Protocol, limit: number, signal: AbortSignal): Promise<Connection>;
}

/** No Mangrove host has started this program. */
export class NoHostError extends Error {
  constructor() {
    super("MANGROVE_CONTROL is not set: a Mangrove host starts this program; `mangrove plugin run` does so for development");
  }
}

/** Reads what the host has put into the environment. */
export function linkFromEnvironment(environment: NodeJS.ProcessEnv): HostLink {
  const control = environment["MANGROVE_CONTROL"];
  if (!control) throw new NoHostError();
  const path = environment["MANGROVE_CA"];
  const ca = path ? readFileSync(path, "utf8") : undefined;
  return {
    control,
    token: environment["MANGROVE_TOKEN"] ?? "",
    plugin: environment["MANGROVE_PLUGIN"] ?? "",
    dial: (address, protocol, limit, signal) => Connection.dial(address, protocol, limit, signal, ca),
  };
}

/** Puts the host of the control address where a data address has `*`. */
export function resolveAddress(control: string, address: string): string {
  const [scheme, rest] = cut(address, "://");
  if (!rest.startsWith("*:")) return address;
  const own = cut(control, "://")[1];
  return `${scheme}://${own.slice(0, own.lastIndexOf(":"))}${rest.slice(1)}`;
}

const FIRST_PAUSE = 100;
const LAST_PAUSE = 5000;

/** Spaces attempts out: 100 ms, growing to 5 s, each shortened by up to half so that many plugins don't come back at once. */
export class Backoff {
  #pause = 0;

  next(random = Math.random()): number {
    this.#pause = Math.min(Math.max(2 * this.#pause, FIRST_PAUSE), LAST_PAUSE);
    return this.#pause * (1 - random / 2);
  }

  reset(): void {
    this.#pause = 0;
  }

  /** Waits for the next attempt; rejects when the signal ends it. */
  wait(signal: AbortSignal): Promise<void> {
    return pause(this.next(), signal);
  }
}

/** Waits; rejects with the signal's reason when that comes first. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", end);
      resolve();
    }, milliseconds);
    if (signal.aborted) end();
    else signal.addEventListener("abort", end, { once: true });
  });
}

/** A data channel: a connection that is replaced when it breaks, until the channel is closed. */
export class Channel {
  readonly #open: () => Promise<Connection>;
  readonly #closed = new AbortController();
  readonly #backoff = new Backoff();
  #current: Connection;
  #since = Date.now();
  #dialling: Promise<Connection> | undefined;

  private constructor(open: () => Promise<Connection>, closed: AbortController, current: Connection) {
    this.#open = open;
    this.#closed = closed;
    this.#current = current;
  }

  /** Dials once; when that fails there is no channel. */
  static async open(link: HostLink, address: string, protocol: Protocol, limit: number): Promise<Channel> {
    const closed = new AbortController();
    const open = (): Promise<Connection> => link.dial(resolveAddress(link.control, address), protocol, limit, closed.signal);
    return new Channel(open, closed, await open());
  }

  get closed(): boolean {
    return this.#closed.signal.aborted;
  }

  /** The connection in use, or a new one if that is `broken`. Rejects when the channel is closed. */
  async connection(broken?: Connection): Promise<Connection> {
    this.#closed.signal.throwIfAborted();
    if (this.#current !== broken) return this.#current;
    this.#dialling ??= this.#dial().finally(() => (this.#dialling = undefined));
    return this.#dialling;
  }

  async #dial(): Promise<Connection> {
    this.#current.close();
    // A connection that broke at once was no success.
    if (Date.now() - this.#since > LAST_PAUSE) this.#backoff.reset();
    for (;;) {
      await this.#backoff.wait(this.#closed.signal);
      try {
        this.#current = await this.#open();
      } catch {
        continue;
      }
      this.#since = Date.now();
      if (this.closed) this.#current.close();
      return this.#current;
    }
  }

  /** Sends a message, over the next connection if this one breaks. Rejects when the channel is closed. */
  async send(message: string): Promise<void> {
    let connection = await this.connection();
    for (;;) {
      try {
        return await connection.send(message);
      } catch {
        connection = await this.connection(connection);
      }
    }
  }

  /** The messages of all its connections, until the channel is closed. `report` hears of broken frames. */
  async *messages(report: (error: unknown) => void = () => {}): AsyncGenerator<Buffer, void, void> {
    try {
      for (let connection = await this.connection(); ; connection = await this.connection(connection)) {
        try {
          yield* connection.messages();
        } catch (error) {
          report(error);
        }
      }
    } catch (error) {
      if (!this.closed) throw error;
    }
  }

  /** Dials again as soon as a connection breaks that nobody reads from. */
  async watch(): Promise<void> {
    for await (const message of this.messages()) void message;
  }

  close(): void {
    this.#closed.abort(new Error("the channel is closed"));
    this.#current.close();
  }
}
