/**
 * What a caller may call a model, taken apart: a Hub id, a URL, or a path. It looks at text alone, and opens nothing.
 *
 *     org/repo                        a repository of the Hub, revision "main"
 *     org/repo@v2  org/repo@refs/pr/1 at a revision
 *     org/repo/dir/file.gguf          one file of it; org/repo@v2/file.gguf and org/repo/file.gguf@v2 at a revision
 *     hub:org/repo                    the same where a folder of that name is in the way
 */

export const DEFAULT_REVISION = "main";

export interface HubName {
  kind: "hub";
  /** "org/repo". */
  repo: string;
  revision: string;
  /** Path in the repository; without one, the repository's only model. */
  file?: string;
  /** Whether the name could be nothing else. */
  isExplicit: boolean;
}

export interface UrlName {
  kind: "url";
  url: string;
}

export interface PathName {
  kind: "path";
  path: string;
}

const PREFIX = "hub:";
const PART = String.raw`[A-Za-z0-9](?:[\w.-]*[\w-])?`;
const REVISION = String.raw`refs\/[\w-]+\/[\w.-]+|[\w.-]+`;
const HUB_NAME = new RegExp(
  String.raw`^(${PART}\/${PART})(?:@(${REVISION}))?(?:\/([^@]+))?(?:@(${REVISION}))?$`,
);

/** Takes a name apart. Two parts that end like a model file are a path: repositories are not called that. */
export function parseModelName(name: string): HubName | UrlName | PathName {
  if (/^(https?|blob):/.test(name)) return { kind: "url", url: name };
  const isExplicit = name.startsWith(PREFIX);
  const hub = parseHubName(isExplicit ? name.slice(PREFIX.length) : name);
  if (hub === undefined || (!isExplicit && looksLikeFile(hub))) return { kind: "path", path: name };
  return { ...hub, isExplicit };
}

function parseHubName(text: string): Omit<HubName, "isExplicit"> | undefined {
  const [, repo, early, file, late] = HUB_NAME.exec(text) ?? [];
  if (repo === undefined || (early !== undefined && late !== undefined)) return undefined;
  if (file?.split("/").some((part) => part === "" || part === "." || part === "..") === true)
    return undefined;
  return {
    kind: "hub",
    repo,
    revision: early ?? late ?? DEFAULT_REVISION,
    ...(file !== undefined && { file }),
  };
}

function looksLikeFile({ repo, file }: Omit<HubName, "isExplicit">): boolean {
  return file === undefined && /\.(gguf|safetensors|json|jinja)$/i.test(repo);
}

/** The name under which a model of the Hub is kept and listed: its repository, and its revision unless that is "main". */
export function hubModelName({ repo, revision }: Pick<HubName, "repo" | "revision">): string {
  return revision === DEFAULT_REVISION ? repo : `${repo}@${revision}`;
}
