/** The given traces, read once each. For tests that have checked `sharedPresent`. */
import { readFileSync } from "node:fs";
import { decodeTraceBytes, parseTrace } from "../../src/sim/trace.ts";
import type { Trace } from "../../src/sim/trace.ts";
import { sharedPath } from "./shared.ts";

const readText = (file: string): Promise<string> =>
  decodeTraceBytes(new Uint8Array(readFileSync(sharedPath(`traces/${file}`))));

const loaded = new Map<string, Promise<Trace>>();

/** `conversation`, `swe`, `lmsyslike` or `sysprompt`. */
export function givenTrace(name: "conversation" | "swe" | "lmsyslike" | "sysprompt"): Promise<Trace> {
  const trace = loaded.get(name) ?? load(name);
  loaded.set(name, trace);
  return trace;
}

async function load(name: string): Promise<Trace> {
  if (name === "conversation") return parseTrace(name, await readText("mooncake/conversation_trace.jsonl"));
  if (name !== "swe") return parseTrace(name, await readText(`marconi/chat_${name}.jsonl`));
  const sessions = { name: "sessions", text: await readText("marconi/swe_gemini3pro_sessions.jsonl.gz") };
  return parseTrace(name, await readText("marconi/swe_sps1_art5_schedule.jsonl"), sessions);
}
