import { open } from "node:fs/promises";
import type { Sink } from "mangrove-sdk";

interface KeepConfig {
  /** The file. */
  path?: string;
  /** What a result that fails contains; empty: none. */
  fail?: string;
}

/** Appends each result to a file, as a line of JSON. */
export async function openKeep({ path, fail = "" }: KeepConfig): Promise<Sink> {
  if (typeof path !== "string" || path === "") throw new Error("path is missing");
  const file = await open(path, "a");
  return {
    async collect(result) {
      const line = JSON.stringify(result);
      if (fail !== "" && line.includes(fail)) throw new Error("told to fail");
      await file.write(`${line}\n`);
    },
    close: () => file.close(),
  };
}
