/**
 * Who made an archive of stored KV: Ed25519 signatures by WebCrypto, in the archive's header, and the keys for them. It
 * says neither what an archive holds (tier/record/archive.ts) nor who is to be trusted (the caller).
 *
 * Signed is a label, the header before the signature, and the SHA-256 of everything behind the header:
 *
 *     0 what the archive is [48]  48 public key [32]  80 signature [64]  144 checksums [32]  176 content
 *
 * A public key that is all zeros: not signed.
 */
import { TidepoolError } from "./errors.ts";

export const SIGNED_HEAD_BYTES = 48;
export const ARCHIVE_HEADER_BYTES = 176;

const KEY_BYTES = 32;
const SIGNATURE_BYTES = 64;
const SIGNATURE_AT = SIGNED_HEAD_BYTES + KEY_BYTES;
export const SIGNATURE_END = SIGNATURE_AT + SIGNATURE_BYTES;

const PEM = /-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----/;

const LABEL = "tidepool archive 2\0";

/**
 * A key that signs archives: the text of an Ed25519 private key (PKCS #8, PEM, as `tidepool cache keygen` and OpenSSL write it),
 * or a pair of WebCrypto keys, whose private key need not be extractable.
 *
 * @example
 * ```ts
 * const pair: SigningKey = await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]) as CryptoKeyPair;
 * await engine.cache.export("The tide was low and ".repeat(16), { sign: pair });
 * ```
 */
export type SigningKey = string | CryptoKeyPair;

/** A new pair of keys as text. */
export interface SigningKeyText {
  /** For `cache.trust`: 43 characters, base64url. */
  publicKey: string;
  /** For `sign`: PKCS #8, PEM. Whoever has it can sign. */
  privateKey: string;
}

/**
 * Makes a pair of keys for signing archives.
 * @throws TidepoolError `unsupported` if this runtime's WebCrypto has no Ed25519.
 *
 * @example
 * ```ts
 * const { publicKey, privateKey } = await newSigningKey();
 * const { archive } = await engine.cache.export("The tide was low and ".repeat(16), { sign: privateKey });
 * const stored = new StoredCache({ directory: "trusting-kv", trust: [publicKey] });
 * console.log((await stored.import(archive)).signedBy === publicKey); // true
 * ```
 */
export async function newSigningKey(): Promise<SigningKeyText> {
  const pair = await ed25519(
    async (subtle) => (await subtle.generateKey("Ed25519", true, ["sign", "verify"])) as CryptoKeyPair,
  );
  const pkcs8 = new Uint8Array(await crypto.subtle.exportKey("pkcs8", pair.privateKey));
  const lines = base64(pkcs8).match(/.{1,64}/g) ?? [];
  const privateKey = ["-----BEGIN PRIVATE KEY-----", ...lines, "-----END PRIVATE KEY-----", ""].join("\n");
  return { publicKey: publicKeyText(await rawPublicKey(pair.publicKey)), privateKey };
}

/** Signs an archive: the same bytes with a signature in the header, in a copy. @throws TidepoolError. */
export async function signArchive(archive: Uint8Array, key: SigningKey): Promise<Uint8Array<ArrayBuffer>> {
  const { privateKey, publicKey } = typeof key === "string" ? await readPrivateKey(key) : key;
  const signed = archive.slice();
  signed.set(await rawPublicKey(publicKey), SIGNED_HEAD_BYTES);
  const message = await messageOf(signed);
  const signature = await ed25519((subtle) => subtle.sign("Ed25519", privateKey, message));
  signed.set(new Uint8Array(signature), SIGNATURE_AT);
  return signed;
}

/** The public key that an archive names as its signer's; undefined if it is not signed. The signature is not checked. */
export function namedSigner(archive: Uint8Array): string | undefined {
  const key = archive.subarray(SIGNED_HEAD_BYTES, SIGNATURE_AT);
  return key.some((byte) => byte !== 0) ? publicKeyText(key) : undefined;
}

/** Whether the signature is that of the key which the archive names. @throws TidepoolError `unsupported`. */
export async function isSignatureValid(archive: Uint8Array): Promise<boolean> {
  const raw = archive.slice(SIGNED_HEAD_BYTES, SIGNATURE_AT);
  const signature = archive.slice(SIGNATURE_AT, SIGNATURE_END);
  const message = await messageOf(archive);
  return ed25519(async (subtle) => {
    const key = await subtle.importKey("raw", raw, "Ed25519", true, ["verify"]);
    return subtle.verify("Ed25519", key, signature, message);
  });
}

/** Whether a text is a public key as `newSigningKey` gives it. */
export function isPublicKey(text: unknown): text is string {
  return typeof text === "string" && /^[A-Za-z0-9_-]{43}$/.test(text);
}

/** Whether a value looks like what signs; a text may still turn out to be no key. */
export function isSigningKey(value: unknown): value is SigningKey {
  if (typeof value === "string") return PEM.test(value);
  const pair = value as Partial<CryptoKeyPair> | null | undefined;
  return pair?.privateKey?.type === "private" && pair.publicKey?.type === "public";
}

async function messageOf(archive: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  const content = archive.subarray(ARCHIVE_HEADER_BYTES) as Uint8Array<ArrayBuffer>;
  const digest = new Uint8Array(await subtleCrypto().digest("SHA-256", content));
  const label = new TextEncoder().encode(LABEL);
  const message = new Uint8Array(label.length + SIGNED_HEAD_BYTES + digest.length);
  message.set(label);
  message.set(archive.subarray(0, SIGNED_HEAD_BYTES), label.length);
  message.set(digest, label.length + SIGNED_HEAD_BYTES);
  return message;
}

async function readPrivateKey(text: string): Promise<CryptoKeyPair> {
  const body = PEM.exec(text)?.[1];
  const bad = (): TidepoolError =>
    new TidepoolError(
      "invalid_argument",
      `sign is a text of ${text.length} characters, expected an Ed25519 private key (PKCS #8, PEM)`,
    );
  if (body === undefined) throw bad();
  await newKeyWorks();
  try {
    const bytes = Uint8Array.from(atob(body.replace(/\s/g, "")), (char) => char.charCodeAt(0));
    const privateKey = await crypto.subtle.importKey("pkcs8", bytes, "Ed25519", true, ["sign"]);
    const { kty, crv, x } = await crypto.subtle.exportKey("jwk", privateKey);
    const jwk = { kty, crv, x } as JsonWebKey;
    const publicKey = await crypto.subtle.importKey("jwk", jwk, "Ed25519", true, ["verify"]);
    return { privateKey, publicKey };
  } catch {
    throw bad(); // of another algorithm, or damaged; the key itself is not to be shown
  }
}

/** Tells a runtime without Ed25519 from a key that is none. */
async function newKeyWorks(): Promise<void> {
  await ed25519((subtle) => subtle.generateKey("Ed25519", false, ["sign", "verify"]));
}

async function rawPublicKey(key: CryptoKey): Promise<Uint8Array> {
  const raw = new Uint8Array(await ed25519((subtle) => subtle.exportKey("raw", key)));
  if (raw.length === KEY_BYTES) return raw;
  throw new TidepoolError(
    "invalid_argument",
    `sign has a public key of ${raw.length} bytes, expected Ed25519's 32`,
  );
}

function subtleCrypto(): SubtleCrypto {
  const subtle = (globalThis.crypto as Crypto | undefined)?.subtle as SubtleCrypto | undefined;
  if (subtle) return subtle;
  const message =
    "signatures need WebCrypto, which browsers offer in secure contexts (https, localhost) only";
  throw new TidepoolError("unsupported", message);
}

async function ed25519<T>(work: (subtle: SubtleCrypto) => Promise<T>): Promise<T> {
  try {
    return await work(subtleCrypto());
  } catch (error) {
    if ((error as Error).name !== "NotSupportedError") throw error;
    const message =
      "signatures need Ed25519, which this runtime's WebCrypto lacks: Node 20, Deno, Chromium 137, Firefox 129 and Safari 17 have it";
    throw new TidepoolError("unsupported", message);
  }
}

function publicKeyText(raw: Uint8Array): string {
  return base64(raw).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function base64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}
