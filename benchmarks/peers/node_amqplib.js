// node's amqplib: handlers in one thread, as many in flight as prefetched.
"use strict";

const amqp = require("amqplib");
const fs = require("fs");

const job = JSON.parse(process.env.BENCH_JOB);
const total = job.messages * job.queues.length;
let handled = 0;
let began, cpu, broker;

function brokerCpu() {
  const stat = fs.readFileSync(`/proc/${process.env.BENCH_BROKER_PID}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

function now() {
  return Number(process.hrtime.bigint()) / 1e9;
}

// What benchmarks/meter.py does.
function hit() {
  handled += 1;
  if (handled === 1) [broker, cpu, began] = [brokerCpu(), process.cpuUsage(), now()];
  if (handled !== total) return;
  const ended = now();
  const used = process.cpuUsage(cpu);
  fs.writeSync(1, JSON.stringify({
    count: total, began, ended,
    cpu: (used.user + used.system) / 1e6,
    broker_cpu: brokerCpu() - broker,
    rss_mb: process.memoryUsage().rss / 2 ** 20,
    latencies_ms: [],
  }) + "\n");
}

async function main() {
  const connection = await amqp.connect(job.url);
  const channel = await connection.createChannel();
  await channel.prefetch(job.prefetch);
  const settle = (message) => { hit(); channel.ack(message); };
  const handle = job.work === "wait" ? (m) => setTimeout(settle, 20, m) : settle;
  await channel.consume(job.queues[0], handle);
}

main();
