/* A multi-exit model's inference loop in C, with a policy of policyopt in it.

   The model is played by a file of logits in float32, row by row, exit by exit, class by class:

       cc -std=c99 -O2 -I DIR serve.c -o serve -lm && ./serve DIR/logits.f32 > decisions.csv
*/
#include <stdio.h>
#include "policyopt_policy.h"

static float logits[POLICYOPT_POLICY_MODEL_EXITS][POLICYOPT_POLICY_CLASSES];

/* Stands for the model's next stage: here all exits of the row were read at once. */
static const float *run_to_exit(int exit) { return logits[exit]; }

int main(int count, char **words) {
    policyopt_policy_state state;
    policyopt_policy_decision said = {0};
    long left[POLICYOPT_POLICY_EXITS] = {0}, row = 0;
    double cost = 0.0;
    FILE *file = count == 2 ? fopen(words[1], "rb") : NULL;

    if (file == NULL) {
        fprintf(stderr, "usage: serve FILE, a file of logits in float32\n");
        return 2;
    }
    printf("row,exit,class,score\n");
    for (; fread(logits, sizeof logits, 1, file) == 1; ++row) {
        int at = 0, exit = 0, verdict = POLICYOPT_POLICY_GO_ON;
        policyopt_policy_start(&state, row);
        for (; at < POLICYOPT_POLICY_EXITS && verdict == POLICYOPT_POLICY_GO_ON; ++at) {
            exit = policyopt_policy_path(at);
            verdict = policyopt_policy_step(&state, exit, run_to_exit(exit), &said);
        }
        if (verdict != POLICYOPT_POLICY_LEAVE) {
            fprintf(stderr, "row %ld: the output of exit %d cannot be\n", row, exit);
            return 1;
        }
        ++left[at - 1];
        cost += policyopt_policy_cost(at - 1);
        printf("%ld,%d,%d,%.9g\n", row, exit, (int)said.prediction, said.score);
    }
    fclose(file);
    for (int at = 0; at < POLICYOPT_POLICY_EXITS; ++at)
        fprintf(stderr, "exit %d: %ld\n", policyopt_policy_path(at), left[at]);
    fprintf(stderr, "%ld rows, mean cost %.4f of %.4f %s\n", row, row ? cost / (double)row : 0.0,
            policyopt_policy_cost(POLICYOPT_POLICY_EXITS - 1), POLICYOPT_POLICY_UNIT);
    return 0;
}
