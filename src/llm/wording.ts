/** The turns that put a question to the model. The asker supplies the rules and the data. */

/** The user's turn: one JSON string, which no quote and no line break of the data can leave. */
export function dataTurn(data: string): string {
  return `The data:\n${JSON.stringify(data)}`;
}

/** What the rules become for a model that takes no schema beside the messages. */
export function systemWithSchema(system: string, jsonSchema: object): string {
  return `${system}\nIts JSON Schema: ${JSON.stringify(jsonSchema)}`;
}

/** Said to the model after an answer that cannot be used. */
export function correction(why: string): string {
  return `That cannot be used: ${why}. Answer again, for the same data and by the same rules, with the JSON object alone.`;
}
