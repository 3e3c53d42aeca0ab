/** The baseline for one request after the other: a plain Bun.serve with bun:sqlite that commits each event before it responds. */
import { Database } from "bun:sqlite";

const database = new Database(process.argv[2] ?? "", { create: true });
database.run("PRAGMA journal_mode = WAL");
database.run("PRAGMA synchronous = FULL");
database.run(`CREATE TABLE events(seq INTEGER PRIMARY KEY AUTOINCREMENT, received_us INTEGER, type TEXT,
  conversation_id TEXT, message TEXT, body TEXT)`);
const insert = database.prepare(
  "INSERT INTO events(received_us, type, conversation_id, message, body) VALUES(?, ?, ?, ?, ?)",
);
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch: async (request) => {
    const text = await request.text();
    const { type, conversation_id, message } = JSON.parse(text) as Record<string, string>;
    const { lastInsertRowid } = insert.run(
      Date.now() * 1000,
      type ?? null,
      conversation_id ?? null,
      message ?? null,
      text,
    );
    return Response.json({ status: "received", seq: Number(lastInsertRowid) });
  },
});
console.log(server.port);
