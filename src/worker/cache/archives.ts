/**
 * Archives of prefixes on their way into an engine or a store: who signed them, whether they are of this model, and that
 * they go into the importer's namespace alone. How they are laid out is tier/record/archive.ts, what is recomputed of them
 * spot-check.ts.
 */
import { isSignatureValid, namedSigner } from "../../archive-signing.ts";
import { TidepoolError } from "../../errors.ts";
import { decodeArchive, type ArchiveContent } from "../../tier/record/archive.ts";
import { importPrefix } from "../../tier/store/prefix-file.ts";
import type { TierStore } from "../../tier/store/store.ts";
import type { ArchiveImport, CacheOptions } from "../../wire/protocol.ts";
import { spotCheck, type CheckRooms } from "./spot-check.ts";
import type { TierMover } from "./tier-mover.ts";

/** Takes an archive into a store that no engine has open: nobody can tell whether it is of the model that will read it. */
export async function importIntoStore(
  store: TierStore,
  archive: Uint8Array,
  { namespace = "", trust }: CacheOptions,
): Promise<ArchiveImport> {
  const content = decodeArchive(archive);
  const signedBy = await checkSigner(archive, trust);
  return answer(content, importPrefix(store, content, { namespace }), signedBy);
}

/**
 * Takes an archive in whole, or refuses it whole.
 * @param verify how many blocks, chosen at random, are computed again and compared
 * @throws TidepoolError `invalid_argument`, `invalid_file`, `untrusted`, `unsupported`, and what computing may throw
 */
export async function importIntoEngine(
  rooms: CheckRooms,
  mover: TierMover,
  archive: Uint8Array,
  { verify = 0, trust }: { verify?: number; trust?: CacheOptions["trust"] },
): Promise<ArchiveImport> {
  const { runner } = rooms;
  const content = decodeArchive(archive);
  const signedBy = await checkSigner(archive, trust);
  const isOurs =
    content.fingerprint === mover.fingerprint && content.blockTokens === runner.options.blockTokens;
  if (!isOurs) {
    const records = content.blocks.length + content.states.length;
    return answer(content, { keys: [], rejected: { fingerprint: records } }, signedBy);
  }
  checkSizes(rooms, content);
  if (verify > 0) await spotCheck(rooms, content, verify);
  return answer(content, importPrefix(mover.store, content, { namespace: mover.namespace }), signedBy);
}

function answer(
  { tokens }: ArchiveContent,
  result: Pick<ArchiveImport, "keys" | "rejected">,
  signedBy: string | undefined,
): ArchiveImport {
  return { ...result, tokens: Array.from(tokens), ...(signedBy !== undefined && { signedBy }) };
}

/**
 * The key that signed an archive; undefined if nobody did, or if it cannot be told here and need not be.
 * @throws TidepoolError `untrusted` if keys are given and none of them signed it, or if its signature is wrong
 */
async function checkSigner(archive: Uint8Array, trust: CacheOptions["trust"]): Promise<string | undefined> {
  const signer = namedSigner(archive);
  if (trust && signer === undefined) throw untrusted("it is not signed, and cache.trust is set", signer);
  if (signer === undefined) return undefined;
  if (trust && !trust.includes(signer))
    throw untrusted(`it is signed by ${signer}, not by a key of cache.trust`, signer);
  let isValid: boolean;
  try {
    isValid = await isSignatureValid(archive);
  } catch (error) {
    if (!trust && error instanceof TidepoolError && error.code === "unsupported") return undefined;
    throw error;
  }
  if (!isValid)
    throw untrusted(`its signature is not that of ${signer}: archive or signature were changed`, signer);
  return signer;
}

function untrusted(why: string, signer: string | undefined): TidepoolError {
  return new TidepoolError(
    "untrusted",
    `the archive is refused: ${why}`,
    signer === undefined ? {} : { signer },
  );
}

/** Refuses what could never be loaded. */
function checkSizes({ runner }: CheckRooms, { tokens, blocks, states, blockTokens }: ArchiveContent): void {
  const { pool, states: statePool, shape } = runner;
  const bad = tokens.find((token) => token >= shape.vocabSize);
  if (bad !== undefined) throw invalid(`its token ${bad} is not in the vocabulary of ${shape.vocabSize}`);
  for (const { blockIndex, payload } of blocks) {
    if (payload.length !== pool.slotBytes)
      throw invalid(`block ${blockIndex} has ${payload.length} bytes, expected ${pool.slotBytes}`);
  }
  for (const { blockIndex, tokenCount, payload } of states) {
    const expected = statePool.slotBytes + (tokenCount === 0 ? 0 : pool.partial.slotBytes);
    if (statePool.slotBytes > 0 && payload.length === expected) continue;
    const at = blockIndex * blockTokens + tokenCount;
    throw invalid(`the state behind ${at} tokens has ${payload.length} bytes, expected ${expected}`);
  }
}

function invalid(why: string): TidepoolError {
  return new TidepoolError("invalid_file", `not a KV archive of this model: ${why}`);
}
