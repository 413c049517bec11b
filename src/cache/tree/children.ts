/**
 * The children of a tree's node by their first token, in the order in which they came. Most nodes have none or one, and
 * a map of one entry would be larger than the node. It knows nothing of trees.
 */
export class Children<Node> {
  private token = 0;
  private only: Node | undefined;
  /** All of them, once there have been two. */
  private several: Map<number, Node> | undefined;

  get size(): number {
    if (this.several !== undefined) return this.several.size;
    return this.only === undefined ? 0 : 1;
  }

  /** The first of them. */
  get first(): Node | undefined {
    if (this.several === undefined) return this.only;
    for (const node of this.several.values()) return node;
    return undefined;
  }

  get(token: number): Node | undefined {
    if (this.several !== undefined) return this.several.get(token);
    return this.token === token ? this.only : undefined;
  }

  has(token: number): boolean {
    return this.get(token) !== undefined;
  }

  set(token: number, node: Node): void {
    if (this.several !== undefined) this.several.set(token, node);
    else if (this.only === undefined || this.token === token) {
      this.token = token;
      this.only = node;
    } else {
      this.several = new Map([
        [this.token, this.only],
        [token, node],
      ]);
      this.only = undefined;
    }
  }

  delete(token: number): void {
    if (this.several !== undefined) this.several.delete(token);
    else if (this.token === token) this.only = undefined;
  }

  values(): Iterable<Node> {
    if (this.several !== undefined) return this.several.values();
    return this.only === undefined ? [] : [this.only];
  }
}
