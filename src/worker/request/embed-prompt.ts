/**
 * The vector of a text from a model that also generates (Qwen3 Embedding): the text is computed as a prompt is, in blocks lent
 * by the scheduler, and its rows are pooled. What other texts have in common with it, such as an instruction, is computed once.
 */
import { guarded } from "../../gpu/guard.ts";
import type { Embedded } from "./embed.ts";
import { chunksOf, onLoan, type Loan, type ScoreRooms } from "./score.ts";

/** Vectors are cheap to ask for again, and a text is rarely embedded twice: nothing goes to the disk. */
const CACHE = "memory";

/** @throws TidepoolError as `scoreTokens` */
export async function embedPrompt(rooms: ScoreRooms, tokens: readonly number[]): Promise<Embedded> {
  const isMean = rooms.runner.shape.embedding?.pooling === "mean";
  // A mean is of all rows; the last one alone needs only itself to be computed.
  const reusable = isMean ? 0 : tokens.length - 1;
  const wanted = { tokens, reusable, cache: CACHE, restore: false } as const;
  const { value } = await onLoan(rooms, wanted, (loan) => pooledOf(rooms, loan, tokens, isMean));
  return value;
}

async function pooledOf(
  rooms: ScoreRooms,
  loan: Loan,
  tokens: readonly number[],
  isMean: boolean,
): Promise<Float32Array<ArrayBuffer>> {
  const { runner } = rooms;
  let pooled: Float32Array<ArrayBuffer> | undefined;
  for (const chunk of chunksOf(rooms, loan, tokens, runner.options.chunkTokens)) {
    const part = await guarded(runner.gpu.device, "to embed", () => runner.embedChunk(chunk));
    const share = chunk.tokens.length / tokens.length;
    const before = pooled;
    pooled = isMean ? part.map((value, index) => value * share + (before?.[index] ?? 0)) : part;
    loan.done(chunk.position + chunk.tokens.length);
  }
  return pooled ?? new Float32Array(runner.dimensions);
}
