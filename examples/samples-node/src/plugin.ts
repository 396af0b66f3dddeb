/** Every kind of symbol, each small enough to read at once. */
import { Plugin } from "mangrove-sdk";
import { openCounter } from "./counter.js";
import { openKeep } from "./keep.js";
import { echo, fail, oneArgument, slow, tally, total } from "./functions.js";

export function plugin(): Plugin {
  return new Plugin("samples-node")
    .source("counter_node", openCounter)
    .sink("keep_node", openKeep)
    .function("echo_node", echo, { validate: oneArgument })
    .function("slow_node", slow)
    .function("fail_node", fail)
    .function("total_node", total, { aggregate: true })
    .function("tally_node", tally);
}
