/**
 * As much of SP, the protocol of nanomsg, nng and mangos, as a plugin needs: one connection at a time, over ipc, tcp and
 * tls+tcp, for pair v0, push and pull. It knows connections and frames, not what is in them, and does not dial again.
 */
import * as net from "node:net";
import * as tls from "node:tls";
import type { Duplex } from "node:stream";

/** The SP protocol numbers of the contract. */
export const PAIR = 16;
export const PUSH = 80;
export const PULL = 81;
export type Protocol = typeof PAIR | typeof PUSH | typeof PULL;

const peers = { [PAIR]: PAIR, [PUSH]: PULL, [PULL]: PUSH } as const;

/** Milliseconds that dialling and both headers may take together. */
export const HANDSHAKE_TIMEOUT = 5000;

/** A message is longer than its reader allows, or more than the host takes. */
export class LimitError extends Error {}

export interface ConnectionOptions {
  protocol: Protocol;
  /** The longest message that is read, in bytes. */
  limit: number;
  /** ipc puts a type in front of each frame's length. */
  typed: boolean;
}

/** Cuts a stream into messages. It checks a length before it keeps anything of that size. */
export class Decoder {
  #chunks: Buffer[] = [];
  #size = 0;
  #need: number;

  constructor(
    public limit: number,
    private readonly typed: boolean,
  ) {
    this.#need = typed ? 9 : 8;
  }

  *push(chunk: Buffer): Generator<Buffer, void, void> {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    if (this.#size < this.#need) return;
    const all = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks);
    const header = this.typed ? 9 : 8;
    let at = 0;
    for (;;) {
      this.#need = header;
      if (all.length - at < header) break;
      if (this.typed && all[at] !== 1) throw new Error(`ipc frame of type ${all[at]}, expected 1`);
      const length = all.readUInt32BE(at + header - 8) * 2 ** 32 + all.readUInt32BE(at + header - 4);
      if (length > this.limit) throw new LimitError(`a message of ${length} bytes, at most ${this.limit} are read`);
      this.#need = header + length;
      if (all.length - at < this.#need) break;
      yield all.subarray(at + header, at + header + length);
      at += header + length;
    }
    this.#chunks = at < all.length ? [all.subarray(at)] : [];
    this.#size = all.length - at;
  }
}

/** A connection to one SP peer, after its handshake. */
export class Connection {
  readonly #stream: Duplex;
  readonly #chunks: AsyncIterator<Buffer>;
  readonly #decoder: Decoder;
  readonly #typed: boolean;
  #rest: Buffer = Buffer.alloc(0);

  private constructor(stream: Duplex, options: ConnectionOptions) {
    this.#stream = stream;
    this.#typed = options.typed;
    this.#decoder = new Decoder(options.limit, options.typed);
    stream.on("error", () => {}); // whoever reads or writes hears of it
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  /** Dials `address` and shakes hands. */
  static async dial(address: string, protocol: Protocol, limit: number, signal: AbortSignal, ca?: string): Promise<Connection> {
    signal.throwIfAborted();
    const [scheme, rest] = cut(address, "://");
    let stream: net.Socket;
    if (scheme === "ipc") {
      stream = net.connect({ path: rest });
    } else if (scheme === "tcp" || scheme === "tls+tcp") {
      const { host, port } = hostAndPort(rest);
      stream = scheme === "tcp" ? net.connect({ host, port, noDelay: true }) : tls.connect({ host, port, ...(ca === undefined ? {} : { ca }) });
      stream.setNoDelay(true);
    } else {
      throw new Error(`address ${JSON.stringify(address)}: expected ipc://, tcp:// or tls+tcp://`);
    }
    return Connection.#shake(stream, { protocol, limit, typed: scheme === "ipc" }, signal, async (connection) => {
      await new Promise<void>((resolve, reject) => {
        stream.once(scheme === "tls+tcp" ? "secureConnect" : "connect", resolve);
        stream.once("error", reject);
        stream.once("close", () => reject(signal.reason ?? new Error("closed")));
      });
      await connection.#sendHeader(protocol);
      await connection.#expectHeader(protocol);
    });
  }

  /** Shakes hands over a stream that was accepted: it hears the peer out first. */
  static async accept(stream: Duplex, options: ConnectionOptions): Promise<Connection> {
    return Connection.#shake(stream, options, new AbortController().signal, async (connection) => {
      await connection.#expectHeader(options.protocol);
      await connection.#sendHeader(options.protocol);
    });
  }

  /** Shakes hands over a stream that is connected already. */
  static async over(stream: Duplex, options: ConnectionOptions, signal: AbortSignal): Promise<Connection> {
    return Connection.#shake(stream, options, signal, async (connection) => {
      await connection.#sendHeader(options.protocol);
      await connection.#expectHeader(options.protocol);
    });
  }

  static async #shake(stream: Duplex, options: ConnectionOptions, signal: AbortSignal, steps: (connection: Connection) => Promise<void>): Promise<Connection> {
    const connection = new Connection(stream, options);
    const give = (): void => void stream.destroy();
    const timer = setTimeout(give, HANDSHAKE_TIMEOUT);
    signal.addEventListener("abort", give);
    try {
      await steps(connection);
      return connection;
    } catch (error) {
      stream.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", give);
    }
  }

  async #sendHeader(protocol: Protocol): Promise<void> {
    await this.#write(header(protocol));
  }

  async #expectHeader(protocol: Protocol): Promise<void> {
    let received = Buffer.alloc(0);
    while (received.length < 8) {
      const next = await this.#chunks.next();
      if (next.done === true) throw new Error("SP handshake: the peer closed the connection");
      received = Buffer.concat([received, next.value]);
    }
    const expected = header(peers[protocol]);
    if (!received.subarray(0, 8).equals(expected)) {
      throw new Error(`SP handshake: the peer sent ${received.toString("hex", 0, 8)}, expected ${expected.toString("hex")}`);
    }
    this.#rest = received.subarray(8);
  }

  /** The longest message that is read, in bytes. */
  set limit(bytes: number) {
    this.#decoder.limit = bytes;
  }

  /** The messages of the peer until the connection ends; a broken frame is an error, a broken connection the end. */
  async *messages(): AsyncGenerator<Buffer, void, void> {
    try {
      yield* this.#decoder.push(this.#rest);
      for (;;) {
        let next: IteratorResult<Buffer>;
        try {
          next = await this.#chunks.next();
        } catch {
          return;
        }
        if (next.done === true) return;
        yield* this.#decoder.push(next.value);
      }
    } finally {
      this.close();
    }
  }

  /** Sends one message; done when the system has taken it. */
  async send(message: string): Promise<void> {
    const start = this.#typed ? 9 : 8;
    const length = Buffer.byteLength(message);
    const frame = Buffer.allocUnsafe(start + length);
    if (this.#typed) frame[0] = 1;
    frame.writeUInt32BE(Math.floor(length / 2 ** 32), start - 8);
    frame.writeUInt32BE(length % 2 ** 32, start - 4);
    frame.write(message, start);
    return this.#write(frame);
  }

  #write(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#stream.write(bytes, (error) => (error ? reject(error) : resolve()));
    });
  }

  /** Ends the connection at once. What was sent before is still delivered. */
  close(): void {
    this.#stream.destroy();
  }
}

function header(protocol: Protocol): Buffer {
  return Buffer.from([0, 0x53, 0x50, 0, protocol >> 8, protocol & 255, 0, 0]);
}

export function cut(text: string, at: string): [string, string] {
  const index = text.indexOf(at);
  return index < 0 ? [text, ""] : [text.slice(0, index), text.slice(index + at.length)];
}

export function hostAndPort(address: string): { host: string; port: number } {
  const colon = address.lastIndexOf(":");
  const port = Number(address.slice(colon + 1));
  if (colon < 1 || !Number.isInteger(port) || port < 1 || port > 65535) {
    throw new Error(`address ${JSON.stringify(address)}: expected <host>:<port>`);
  }
  return { host: address.slice(0, colon).replace(/^\[(.*)\]$/, "$1"), port };
}
