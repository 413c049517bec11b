/**
 * What callers may hand to the library, by function: rules for the arguments and options that stay on this side of the worker
 * (models, signals, listeners), joined with those of the table that both sides share (wire/arguments.ts).
 */
import { isSigningKey, type SigningKey } from "../archive-signing.ts";
import {
  callback,
  flag,
  object,
  oneOf,
  rule,
  signal,
  stringOr,
  text,
  type Fields,
  type Rule,
} from "../check.ts";
import type {
  ChatOptions,
  EmbedOptions,
  GenerateOptions,
  HeaderOptions,
  LoadOptionsOf,
  Model,
  ModelsCallOptions,
  PrefillEngine,
} from "./options.ts";
import {
  embedFields,
  engineFields,
  generateFields,
  sourceFields,
  templateVariables,
  tools,
} from "../wire/arguments.ts";

/** Characters of a shared engine's name, at most. */
const MAX_SHARE_NAME = 200;

const shareName = text(1, MAX_SHARE_NAME);

const share = stringOr<boolean>(
  `true, false or ${shareName.expected}`,
  shareName,
  (value) => typeof value === "boolean",
  flag,
);

const isFile = (value: unknown): boolean => Object.prototype.toString.call(value) === "[object File]";

/** What can be loaded. */
export const model: Rule<Model> = rule(
  "a non-empty string (Hub id, path or address), a URL, a File, or an array of at least one File",
  (value) => {
    if (Array.isArray(value)) return value.length > 0 && value.every(isFile);
    return (typeof value === "string" && value !== "") || value instanceof URL || isFile(value);
  },
);

export const headerOptions = object<HeaderOptions>("options", {
  ...engineFields,
  onProgress: callback(),
  signal,
});

/** By what is asked of it. */
const anEngine = rule<never>("an Engine", (value) => {
  const { cache } = (value ?? {}) as { cache?: { ask?: unknown } };
  return typeof cache?.ask === "function";
});

const loadFields: Fields<LoadOptionsOf<never>> = {
  ...engineFields,
  onProgress: callback(),
  onNotice: callback(),
  onChange: callback(),
  signal,
  share,
  prefillBy: object<PrefillEngine<never>>(
    "an engine",
    { engine: anEngine, when: oneOf({ faster: true, always: true }) },
    { engine: true },
  ),
};
export const loadOptions = object<LoadOptionsOf<never>>("options", loadFields);

export const generateOptions = object<GenerateOptions>("options", { ...generateFields, signal });

export const embedOptions = object<EmbedOptions>("options", { ...embedFields, signal });

export const chatOptions = object<ChatOptions>("options", {
  ...generateFields,
  signal,
  template: templateVariables,
  tools,
});

export const renderOptions = object<Pick<ChatOptions, "template" | "tools">>("options", {
  template: templateVariables,
  tools,
});

export const exportOptions = object<{ sign?: SigningKey }>("options", {
  sign: rule("an Ed25519 private key (PKCS #8, PEM) or a CryptoKeyPair", isSigningKey, true),
});

export const modelsOptions = object<ModelsCallOptions>("options", {
  ...sourceFields,
  onProgress: callback(),
  signal,
});
