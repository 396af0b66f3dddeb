/** Sinks: results come one after the other, and are acknowledged in order, many at a time. */
import type { Json } from "./message.js";
import type { Metrics } from "./context.js";
import type { Channel } from "./link.js";
import { ContractError, errorText, excerpt, list, parseObject, unsigned } from "./message.js";
import { aborted, type Owner, type Run } from "./session.js";

/** What a sink gets for one result of a rule: an array of rows, or one row when the rule's action says sendSingle. */
export type Result = Json;

/** Takes results out. */
export interface Sink {
  /** When it returns, or what it returns resolves, the result is safe and the host is told so. */
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  collect(result: any): void | Promise<void>;
  close?(): void | Promise<void>;
}

/** The rows of a result; one object is one row. */
export function rows<T = Record<string, Json>>(result: Result): T[] {
  return (Array.isArray(result) ? result : [result]) as T[];
}

/** Milliseconds for which a sink that has to end, but was not told with which batch, waits for another one. */
const IDLE = 50;

/** Says up to where results are safe. Until it is written it takes in what becomes safe meanwhile; errors close it. */
interface Ack {
  type: "ack";
  use: number;
  seq: number;
  errors?: [number, string][];
}

/** A sink at work. */
export class SinkRun implements Run {
  readonly #done: Promise<void>;
  #closing: unknown; // what the sink's close has thrown
  #last = 0;
  #target: number | undefined;
  #idle: NodeJS.Timeout | undefined;
  #draining = false;
  #collecting = false;
  #ack: Ack | undefined;

  constructor(
    private readonly owner: Owner,
    private readonly use: number,
    private readonly metrics: Metrics,
    private readonly sink: Sink,
    private readonly channel: Channel,
    private readonly ended: AbortController,
    private readonly acks: boolean,
  ) {
    this.#done = this.#run();
  }

  async #run(): Promise<void> {
    try {
      for await (const message of this.channel.messages((error) => this.#report(error))) {
        clearTimeout(this.#idle);
        this.#idle = undefined;
        this.#collecting = true;
        await this.#collect(message);
        this.#collecting = false;
        if (this.#isFinished()) break;
        this.#waitForMore();
      }
    } finally {
      clearTimeout(this.#idle);
      this.channel.close();
      try {
        await this.sink.close?.();
      } catch (error) {
        this.#closing = error;
      }
    }
  }

  #report(error: unknown): void {
    this.owner.send({ type: "error", use: this.use, error: errorText(error) });
  }

  async #collect(message: Buffer): Promise<void> {
    await this.owner.room();
    let seq: number;
    let results: unknown[];
    try {
      const data = parseObject(message);
      seq = unsigned(data, "seq");
      results = list(data, "results");
      if (results.length > this.owner.limits.batch) {
        throw new ContractError(`${results.length} results, expected at most ${this.owner.limits.batch}`);
      }
      if (seq <= this.#last) throw new ContractError(`seq ${seq}, expected ${this.#last + 1}`);
    } catch (error) {
      return this.#report(`sink data ${excerpt(message)}: ${errorText(error)}`);
    }
    // What is missing is lost, which is no reason to lose this one too.
    if (seq !== this.#last + 1) this.#report(`sink data: seq ${seq}, expected ${this.#last + 1}`);
    const failed: [number, string][] = [];
    for (const [index, result] of results.entries()) {
      try {
        const pending = this.sink.collect(result);
        if (pending !== undefined) await pending;
      } catch (error) {
        if (this.acks) {
          failed.push([index, errorText(error)]);
        } else {
          await this.owner.room();
          this.#report(error);
        }
      }
      if (this.ended.signal.aborted) return;
    }
    this.#last = seq;
    if (!this.acks) return;
    const waiting = this.#ack;
    const ack: Ack = waiting ?? { type: "ack", use: this.use, seq };
    ack.seq = seq;
    this.#ack = ack;
    if (failed.length > 0) {
      ack.errors = failed;
      this.#ack = undefined;
    }
    if (waiting !== undefined) return;
    await this.owner.room();
    this.owner.send(() => {
      if (this.#ack === ack) this.#ack = undefined;
      return ack;
    });
  }

  #isFinished(): boolean {
    return this.ended.signal.aborted || (this.#target !== undefined && this.#last >= this.#target);
  }

  #waitForMore(): void {
    if (!this.#draining || this.#collecting) return;
    const idle = setTimeout(() => {
      // A process that was held up looks once more for what has arrived meanwhile.
      setImmediate(() => this.#idle === idle && this.channel.close());
    }, IDLE);
    this.#idle = idle;
  }

  async stop(late: AbortSignal, seq: number | undefined): Promise<unknown> {
    this.#target = seq;
    this.#draining = seq === undefined;
    if (this.#isFinished() && !this.#collecting) this.channel.close();
    this.#waitForMore();
    try {
      await Promise.race([this.#done, aborted(late, "the sink has not collected everything")]);
      if (this.#closing !== undefined) throw this.#closing;
    } finally {
      this.ended.abort(new Error("stopped"));
      this.channel.close();
      this.metrics.flush();
    }
    return undefined;
  }

  async drop(): Promise<void> {
    this.ended.abort(new Error("the connection to the host is gone"));
    this.channel.close();
    this.metrics.flush();
    await this.#done;
  }
}
