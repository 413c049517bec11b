/**
 * Standard output: what a command was asked for, and nothing else. When the program that reads it has had enough (`| head`),
 * the rest is dropped quietly.
 */
import process from "node:process";

const closed = new AbortController();

/** Aborted when nobody reads standard output any more: work for it may end. */
export const outputClosed: AbortSignal = closed.signal;

export function print(text: string): void {
  if (!closed.signal.aborted) process.stdout.write(text);
}

/** Takes a closed pipe for the end of the output, not for an error. Called once, at the start. */
export function watchOutput(): void {
  process.stdout.on("error", (error) => ended(error, () => closed.abort()));
  process.stderr.on("error", (error) => ended(error, () => {}));
  process.once("disconnect", () => closed.abort()); // the process above (supervise.ts) was killed
  process.channel?.unref();
}

function ended(error: NodeJS.ErrnoException, end: () => void): void {
  if (error.code !== "EPIPE" && error.code !== "EOF") throw error; // EOF: what Windows says
  end();
}

/** Lines of cells, each column as wide as its widest cell. */
export function columned(lines: readonly (readonly string[])[]): string {
  const widths = (lines[0] ?? []).map((_, i) => Math.max(...lines.map((line) => line[i]!.length)));
  return lines
    .map((line) =>
      line
        .map((cell, i) => cell.padEnd(widths[i]!))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
