/** Keys for archives, given as files or flags: those that `cache import` trusts, and the one that `cache export` signs with. */
import { readFile } from "node:fs/promises";
import { isPublicKey, isSigningKey, newSigningKey } from "../../archive-signing.ts";
import { TidepoolError } from "../../errors.ts";
import { insteadOf } from "../../file-kind.ts";
import { createPrivateFile } from "../../platform/private-files.ts";
import { readBytes } from "../flags.ts";

/** Writes a new private key into a file, which must not exist. Returns the public one. */
export async function keygen(path: string): Promise<string> {
  const { publicKey, privateKey } = await newSigningKey();
  const file = await createPrivateFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
    throw bad(`${path} exists, expected a new file: a key is never overwritten`);
  });
  await file.writeFile(privateKey).finally(() => file.close());
  return publicKey;
}

/** The private key in a file. */
export async function privateKeyIn(path: string): Promise<string> {
  const bytes = await readBytes(path);
  const text = new TextDecoder().decode(bytes);
  if (isSigningKey(text) as boolean) return text;
  throw bad(`--sign ${path} ${insteadOf("an Ed25519 private key (PKCS #8, PEM)", bytes)}`);
}

const PUBLIC_KEY = "a public key of 43 characters, as `tidepool cache keygen` prints it";

/** The public key that a flag gives: itself, or the file that holds it. */
export async function publicKeyOf(given: string): Promise<string> {
  if (isPublicKey(given)) return given;
  const text = await readFile(given, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
    throw bad(`--trust ${given} is neither a key nor a file: expected ${PUBLIC_KEY}, or a file with one`);
  });
  if (isPublicKey(text.trim())) return text.trim();
  throw bad(`--trust ${given} ${insteadOf(`a file with ${PUBLIC_KEY} and nothing else in it`, text)}`);
}

const bad = (message: string): TidepoolError => new TidepoolError("invalid_argument", message);
