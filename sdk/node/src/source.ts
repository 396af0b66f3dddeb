/** Sources: what they send becomes batches, in order, and waits while the host is slow. */
import type { Metrics } from "./context.js";
import type { Channel } from "./link.js";
import { errorText, excerpt, type Limits } from "./message.js";
import { aborted, type Owner, type Run } from "./session.js";
import { LimitError } from "./sp.js";

/** What may go with a tuple. */
export interface Extra {
  /** A JSON object. */
  meta?: object;
  /** Any JSON that lets the source go on behind this tuple, see `SourceContext.offset`. */
  offset?: unknown;
}

/** Takes what a source brings in. */
export interface Output {
  /** Hands a tuple on, a JSON object; await it: it waits while the host is slow. Rejects when the source has to end. */
  send(tuple: object, extra?: Extra): Promise<void>;
  /** Tells the host of an error that the source survives. */
  report(error: unknown): Promise<void>;
}

/** A tuple with what goes with it, for sources that yield. */
export class Tuple {
  constructor(
    readonly data: object,
    readonly extra: Extra,
  ) {}
}

/**
 * Brings data in until its context's signal is aborted, or until there is none any more: when it returns by itself the
 * host is told so, when it throws with the error. It may send to `output`, or be a generator of tuples.
 */
export type RunSource = (output: Output) => AsyncIterable<object> | Iterable<object> | Promise<void> | void;

export type Source =
  | RunSource
  | {
      run: RunSource;
      /** Hears which offset the host has made safe: it will never ask for what is up to there again. */
      commit?(offset: unknown): void;
    };

const BATCH = 256 << 10; // UTF-16 units, about bytes
const ENVELOPE = 128; // more than what a message holds beside tuples, metas and offset
const KEPT_OFFSETS = 4096;

/** What the next message holds: tuples, or one error or end. */
interface Pending {
  tuples: string;
  metas: string;
  hasMeta: boolean;
  count: number;
  offset: string | undefined;
  note: string | undefined;
}

const nothing = (): Pending => ({ tuples: "", metas: "", hasMeta: false, count: 0, offset: undefined, note: undefined });
const done = Promise.resolve();

/** The queue between a source and its channel: one batch is written, one fills. */
export class BatchedOutput implements Output {
  last = 0;
  readonly offsets: { seq: number; offset: unknown }[] = [];
  #pending = nothing();
  #waiting: (() => void)[] = [];
  #flushing: Promise<void> | undefined;
  #closed = false;

  constructor(
    private readonly limits: Limits,
    private readonly write: (message: string) => Promise<void>,
    private readonly signal: AbortSignal,
    private readonly keepsOffsets: boolean,
  ) {
    signal.addEventListener("abort", () => this.#wake(), { once: true });
  }

  send(tuple: object, extra?: Extra): Promise<void> {
    let data: string | undefined;
    let meta = "null";
    let offset: string | undefined;
    try {
      data = JSON.stringify(tuple);
      if (data === undefined || data.charCodeAt(0) !== 0x7b) throw new TypeError(`tuple: expected a JSON object, not ${excerpt(tuple)}`);
      if (extra?.meta != null) meta = JSON.stringify(extra.meta);
      if (extra?.offset != null) offset = JSON.stringify(extra.offset);
      const units = data.length + meta.length + (offset?.length ?? 0) + ENVELOPE;
      if (units * 3 > this.limits.message) {
        const size = Buffer.byteLength(data) + Buffer.byteLength(meta) + Buffer.byteLength(offset ?? "") + ENVELOPE;
        if (size > this.limits.message) throw new LimitError(`a tuple of ${size} bytes, at most ${this.limits.message} are sent`);
      }
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#put(() => this.#add(data, meta, offset));
  }

  #add(data: string, meta: string, offset: string | undefined): boolean {
    const pending = this.#pending;
    if (pending.note !== undefined || pending.count >= this.limits.batch) return false;
    if (pending.count > 0) {
      const units = pending.tuples.length + pending.metas.length + data.length + meta.length + (offset?.length ?? 0) + ENVELOPE;
      if (units > BATCH || units * 3 > this.limits.message) return false;
      pending.tuples += ",";
      pending.metas += ",";
    }
    pending.tuples += data;
    pending.metas += meta;
    pending.hasMeta ||= meta !== "null";
    pending.count++;
    pending.offset = offset ?? pending.offset;
    return true;
  }

  report(error: unknown): Promise<void> {
    return this.note(`"error":${JSON.stringify(errorText(error))}`);
  }

  note(text: string): Promise<void> {
    return this.#put(() => {
      if (this.#pending.count > 0 || this.#pending.note !== undefined) return false;
      this.#pending.note = text;
      return true;
    });
  }

  /** Adds to the pending batch as soon as `add` agrees. */
  #put(add: () => boolean): Promise<void> {
    if (this.signal.aborted) return Promise.reject(this.signal.reason);
    if (this.#closed) return Promise.reject(new Error("stopped"));
    if (!add()) return new Promise<void>((resolve) => this.#waiting.push(resolve)).then(() => this.#put(add));
    this.#flushing ??= this.#flush();
    return done;
  }

  /** Lets nothing more in; resolves when everything has been written. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#wake();
    await this.#flushing;
  }

  #wake(): void {
    this.#waiting.splice(0).forEach((wake) => wake());
  }

  async #flush(): Promise<void> {
    try {
      for (;;) {
        // What is sent in one turn goes out together, and a source that never waits leaves room for the rest.
        await new Promise((resolve) => setImmediate(resolve));
        const full = this.#pending;
        if (full.count === 0 && full.note === undefined) return;
        this.#pending = nothing();
        const seq = this.last + 1;
        if (this.keepsOffsets && full.offset !== undefined) {
          if (this.offsets.length === KEPT_OFFSETS) this.offsets.shift();
          this.offsets.push({ seq, offset: JSON.parse(full.offset) as unknown });
        }
        this.#wake();
        await this.write(encodeBatch(seq, full));
        this.last = seq;
      }
    } catch {
      this.#closed = true; // the channel is
      this.#wake();
    } finally {
      this.#flushing = undefined;
    }
  }
}

function encodeBatch(seq: number, batch: Pending): string {
  if (batch.note !== undefined) return `{"seq":${seq},${batch.note}}`;
  const meta = batch.hasMeta ? `,"meta":[${batch.metas}]` : "";
  const offset = batch.offset === undefined ? "" : `,"offset":${batch.offset}`;
  return `{"seq":${seq},"tuples":[${batch.tuples}]${meta}${offset}}`;
}

/** A source at work. */
export class SourceRun implements Run {
  readonly #output: BatchedOutput;
  readonly #commit: ((offset: unknown) => void) | undefined;
  readonly #ended: Promise<void>;

  constructor(
    private readonly owner: Owner,
    private readonly use: number,
    private readonly metrics: Metrics,
    source: Source,
    private readonly channel: Channel,
    signal: AbortSignal,
  ) {
    this.#commit = typeof source === "function" ? undefined : source.commit?.bind(source);
    this.#output = new BatchedOutput(owner.limits, (message) => channel.send(message), signal, this.#commit !== undefined);
    void channel.watch().catch(() => {});
    this.#ended = this.#run(typeof source === "function" ? source : source.run.bind(source), signal);
  }

  async #run(run: RunSource, signal: AbortSignal): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve)); // the host is told of the start first
    let end = '"end":true';
    try {
      const running = run(this.#output);
      if (isIterable(running)) {
        for await (const item of running) {
          if (item instanceof Tuple) await this.#output.send(item.data, item.extra);
          else await this.#output.send(item);
        }
      } else {
        await running;
      }
    } catch (error) {
      if (signal.aborted) return;
      end += `,"error":${JSON.stringify(errorText(error))}`;
    }
    if (!signal.aborted) await this.#output.note(end).catch(() => {});
  }

  async stop(late: AbortSignal): Promise<unknown> {
    try {
      await Promise.race([this.#ended, aborted(late, "the source does not end")]);
      await Promise.race([this.#output.close(), aborted(late, "the host does not read what is queued")]);
    } finally {
      void this.#output.close();
      this.channel.close();
      this.metrics.flush();
    }
    return { seq: this.#output.last };
  }

  async drop(): Promise<void> {
    this.channel.close();
    this.metrics.flush();
    await this.#ended;
  }

  /** Tells a source that wants to know which offset is safe. */
  commit(seq: number): void {
    const { offsets } = this.#output;
    let safe: { offset: unknown } | undefined;
    while (offsets[0] !== undefined && offsets[0].seq <= seq) safe = offsets.shift();
    if (safe === undefined) return;
    try {
      this.#commit?.(safe.offset);
    } catch (error) {
      this.owner.send({ type: "error", use: this.use, error: errorText(error) });
    }
  }
}

function isIterable(running: ReturnType<RunSource>): running is AsyncIterable<object> | Iterable<object> {
  return typeof running === "object" && (Symbol.asyncIterator in running || Symbol.iterator in running);
}
