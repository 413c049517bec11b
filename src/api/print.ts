/** Standard output: what a command was asked for, and nothing else. */

export function print(text: string): void {
  process.stdout.write(text);
}
