/**
 * What is added to the demo while it is recorded, so that every tab has something to show: labelled examples, webhooks of three types,
 * and a stand-in for the language model. The README says so beside the pictures.
 */

/** Labelled examples, worded differently from the demo's messages. */
const EXAMPLES: Readonly<Record<string, readonly string[]>> = {
  InvoiceQuestion: [
    "Quando vence a minha fatura?",
    "Qual é o dia em que fecha a fatura?",
    "Qual o melhor dia para compra?",
  ],
  CarInsuranceRequest: [
    "Quero um seguro para o meu carro",
    "Preciso fazer seguro de carro",
    "Tem seguro só contra roubo?",
  ],
  PlanCancellation: [
    "Quero cancelar o meu plano",
    "Cancelar plano, por favor",
    "A mensalidade subiu, quero cancelar",
  ],
  CardLost: [
    "Perdi o meu cartão",
    "Preciso bloquear o cartão agora",
    "Meu cartão foi roubado, quero bloquear",
  ],
  LimitIncrease: [
    "Dá para aumentar o meu limite?",
    "Quero aumentar o limite do cartão",
    "Quanto tenho disponível no cartão?",
  ],
  InternetDown: ["Minha internet caiu", "A internet caiu de novo esta semana", "Estou sem internet em casa"],
  LateDelivery: ["Meu pedido está atrasado", "O pedido está atrasado há uma semana", "Cadê o meu pedido?"],
  Thanks: ["Obrigada!", "Perfeito, obrigada", "Valeu demais", "Era isso mesmo, valeu"],
};

const CARS = ["Onix", "Uno", "HB20", "Strada"];

/** The n-th webhook. */
function webhook(n: number): object {
  switch (n % 3) {
    case 0:
      return {
        type: "CarInsuranceRequest",
        car: { model: CARS[n % CARS.length], year: 2012 + (n % 13), ...(n > 150 ? { color: "prata" } : {}) },
        coverage: n % 2 === 0 ? "completo" : "roubo",
        ...(n % 5 === 0 ? {} : { broker: "loja-3" }),
      };
    case 1:
      return {
        type: "InvoicePaid",
        invoice: {
          id: `F-${1000 + n}`,
          total: 90 + ((37 * n) % 200),
          items: [{ sku: `P-${n % 9}`, quantity: 1 }],
        },
        ...(n % 4 === 0 ? {} : { method: "pix" }),
      };
    default:
      return {
        type: "ParcelMoved",
        parcel: `BR${100 + n}`,
        status: ["coletado", "em trânsito", "entregue"][n % 7] ?? "em trânsito",
        hub: { city: "Belo Horizonte", state: "MG" },
      };
  }
}

const headers = { "content-type": "application/json" };

async function send(method: "POST" | "PUT", url: string, body: unknown): Promise<void> {
  const response = await fetch(url, { method, headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`record: ${method} ${url}: ${response.status} ${await response.text()}`);
  await response.arrayBuffer();
}

/** Labels the examples and sends webhooks: 150 at once, then one every three seconds until `signal` aborts. */
export async function furnish(url: string, signal: AbortSignal): Promise<void> {
  for (const [label, examples] of Object.entries(EXAMPLES))
    await send("PUT", `${url}/api/intents/${label}`, { examples });
  let sent = 150;
  await send(
    "POST",
    `${url}/ingest`,
    Array.from({ length: sent }, (_, n) => webhook(n)),
  );
  const more = async (): Promise<void> => {
    while (!signal.aborted) {
      await Bun.sleep(3000);
      await send("POST", `${url}/ingest`, webhook(sent++));
    }
  };
  void more().catch(() => {
    // The gateway has ended.
  });
}

/** The messages sent to the stand-in, and its replies. */
export const CHAT = [
  {
    message: "Oi, quero fazer um seguro pro meu Uno",
    slots: { "car.model": "Uno" },
    reply: "Claro! De que ano é o seu Uno, e qual cobertura você quer?",
  },
  {
    message: "É 2015. O completo, por favor",
    slots: { "car.year": 2015, coverage: "completo" },
    reply: "Anotei: seguro completo para um Uno 2015. Por qual corretora você vem?",
  },
] as const;

const GOOD = /obrigad|valeu|perfeito|fechado|claro|pronto|sem problema/i;
const BAD = /perdi|subiu|atrasad|caiu|extraviad|caro,|não consigo|nunca mais/i;

/** An endpoint with one model. It replies to the messages of CHAT, guesses sentiment from a few words, and knows no intents. */
export function standIn(): { readonly url: string; stop(): Promise<void> } {
  const server = Bun.serve({
    ...{ port: 0, hostname: "127.0.0.1" },
    fetch: async (request) => {
      if (new URL(request.url).pathname.endsWith("/models"))
        return Response.json({ object: "list", data: [{ id: "stand-in", object: "model" }] });
      const { messages, stream } = (await request.json()) as {
        messages: { content: string }[];
        stream?: boolean;
      };
      const last = messages.map(({ content }) => content).join("\n");
      const turn = CHAT.findLast(({ message }) => last.includes(message));
      return stream === true ? streamed(turn?.reply ?? "") : completed(turn, messages.at(-1)?.content ?? "");
    },
  });
  return { url: `http://127.0.0.1:${server.port}/v1`, stop: () => server.stop(true) };
}

function completed(turn: (typeof CHAT)[number] | undefined, text: string): Response {
  const reply =
    turn === undefined
      ? { intent: "Unknown", sentiment: sentimentOf(text), event_type: "Unknown", confidence: 0.5 }
      : {
          intent: "CarInsuranceRequest",
          slots: Object.entries(turn.slots).map(([name, value]) => ({ name, value })),
        };
  const message = { role: "assistant", content: JSON.stringify(reply) };
  return Response.json({
    ...{ id: "1", object: "chat.completion" },
    choices: [{ index: 0, message, finish_reason: "stop" }],
  });
}

function sentimentOf(text: string): number {
  if (BAD.test(text)) return -0.65;
  return GOOD.test(text) ? 0.7 : 0.05;
}

function streamed(reply: string): Response {
  const pieces = async function* (): AsyncGenerator<string> {
    for (const content of reply.match(/\S+\s*/g) ?? []) {
      await Bun.sleep(120);
      yield `data: ${JSON.stringify({ id: "1", object: "chat.completion.chunk", choices: [{ index: 0, delta: { content } }] })}\n\n`;
    }
    yield "data: [DONE]\n\n";
  };
  return new Response(pieces(), { headers: { "content-type": "text/event-stream" } });
}
