// Ask a server through OpenAI's client for Node: a picture, a conversation and a stream, as ask.py does.
//   node ask.mjs http://127.0.0.1:8123/v1 PICTURE.png
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [url, file] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none" });
const model = (await client.models.list()).data[0].id;
const picture = `data:image/png;base64,${readFileSync(file).toString("base64")}`;
const pictured = [
  { role: "user", content: [{ type: "image_url", image_url: { url: picture } }, { type: "text", text: "What is it?" }] },
];
const conversation = [
  { role: "user", content: "What is it?" },
  { role: "assistant", content: "a box" },
  { role: "user", content: "Which colour?" },
];
const answers = [];
for (const messages of [pictured, conversation]) {
  const answer = await client.chat.completions.create({ model, messages, max_tokens: 12 });
  answers.push(answer.choices[0].message.content);
}
let streamed = "";
for await (const part of await client.chat.completions.create({ model, messages: pictured, max_tokens: 12, stream: true }))
  streamed += part.choices[0]?.delta?.content ?? "";
answers.push(streamed);
console.log(JSON.stringify(answers));
