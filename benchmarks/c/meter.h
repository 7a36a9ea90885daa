/* benchmarks/meter.py for C: the same span, the same clocks, the same line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double meter_wall, meter_cpu, meter_broker;

static double wall_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static double cpu_now(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec +
           (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static double broker_now(void)
{
    char path[64], text[4096];
    const char *pid = getenv("BENCH_BROKER_PID");
    unsigned long user = 0, system = 0;
    if (!pid) return 0;
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
           &system);
    return (double)(user + system) / sysconf(_SC_CLK_TCK);
}

static double rss_megabytes(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    if (file) fclose(file);
    return pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static void meter_start(void)
{
    meter_broker = broker_now();
    meter_cpu = cpu_now();
    meter_wall = wall_now();
}

static void meter_finish(long count)
{
    double wall = wall_now(), cpu = cpu_now() - meter_cpu, broker = broker_now() - meter_broker;
    printf("{\"count\": %ld, \"began\": %.6f, \"ended\": %.6f, \"cpu\": %.6f, \"broker_cpu\": %.4f, "
           "\"rss_mb\": %.1f, \"latencies_ms\": []}\n",
           count, meter_wall, wall, cpu, broker, rss_megabytes());
    fflush(stdout);
}
