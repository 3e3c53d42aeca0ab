/** An endpoint for embeddings; the test decides what it returns. */

export interface Asked {
  readonly model: string;
  readonly input: string[];
  readonly encoding_format: string;
}

export type Answer = (asked: Asked, request: Request) => unknown;

export class EmbeddingsEndpoint implements Disposable {
  readonly asked: Asked[] = [];
  models: string[] | Response = [];
  answer: Answer = (asked) => vectors(asked.input.map((_, at) => [at + 1, 0, 1]));
  readonly #server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 0,
    fetch: (request) => this.#serve(request),
  });

  get baseUrl(): string {
    return `http://127.0.0.1:${this.#server.port}/v1`;
  }

  async #serve(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname === "/v1/models") {
      if (this.models instanceof Response) return this.models.clone() as Response;
      return Response.json({ object: "list", data: this.models.map((id) => ({ id, object: "model" })) });
    }
    if (pathname !== "/v1/embeddings") return new Response("no", { status: 404 });
    const asked = (await request.json()) as Asked;
    this.asked.push(asked);
    const answer = await this.answer(asked, request);
    return answer instanceof Response ? answer : Response.json(answer);
  }

  [Symbol.dispose](): void {
    this.#server.stop(true);
  }
}

export function vectors(rows: unknown[]): { data: { index: number; embedding: unknown }[] } {
  return { data: rows.map((embedding, index) => ({ index, embedding })) };
}
