#!/usr/bin/env bash
#SBATCH --job-name=igdm --gres=gpu:1 --cpus-per-task=4 --mem=24G --time=24:00:00
#SBATCH --signal=B:TERM@60 --requeue --output=/dev/null
# The paper's tables, and a loop that runs them:
#   bash run_all.sh                      tables 1 to 18 and the figures, one run after the other
#   bash run_all.sh 2 f4                 these alone; the names of runs can be given too
#   bash run_all.sh 2 --seeds "0 1 2"    each training run once a seed; teachers once
#   bash run_all.sh demo                 ARD without and with IGDM on a laptop; digits, ten: more methods
#   bash run_all.sh --smoke              every kind of run in miniature, on digits and the CPU, in minutes
#   bash run_all.sh --list 2             the commands; | xargs -P4 -I{} sh -c '{}' runs four at a time
#   bash run_all.sh --paper              what the paper prints: table, run, teacher, metric, value
#   GPUS="0 1 2 3" bash run_all.sh       a worker on each of these GPUs
#   sbatch --array=0-31 run_all.sh       32 workers, from this folder; the same again until all is finished
#
# Output: runs/NAME-sSEED/output.txt. Finished runs are skipped, busy ones passed over, failed ones named at
# the end. Before several workers, "bash run_all.sh 1" fetches the teachers. PYTHON, OOD_PYTHON: interpreters,
# one with OODRobustBench. EXTRA: flags for all runs. RIFT: the path of RiFT's checkpoint, which is on no hub.

# A block is a table as the paper prints it: metrics | columns | flags, then a line a run. A column and a line
# make the name, cifar100-rn18-bdm-ard+igdm: data set, student, teacher, method. The name gives the flags, and
# more can end the line. A line without values can name several runs. A run of several tables is run once.
# The tables differ in places. AdaAD's AA with BDM-AT: 28.06 (tables 2, 4, 6), 27.82 (8). Clean accuracy at
# the same alpha: pgd-at+igdm 60.83 (2), 60.68 (17); ard+igdm 61.62 (2), 61.18 (18). TRADES' C&W: 23.32, 23.92
# (2). In 22 of 30 rows of table 2, FGSM minus PGD is exactly 4.00.
blocks() { cat <<END
# Table 1: the teachers. CIFAR-10 | CIFAR-100; SVHN, which the first run that needs it trains; Tiny-ImageNet
table 1: clean pgd aa | cifar10 cifar100 | --attacks clean,pgd,aa
bdm  92.44 70.63 67.31 | 72.58 44.24 38.83
ltd  85.21 60.89 56.94 | 64.07 36.61 30.57
ikl  92.16 71.09 67.73 |  73.8 44.14 39.18
table 1: clean pgd aa | svhn | --attacks clean,pgd,aa
pgd-at  93.9 61.78 54.28
table 1: clean pgd aa | tiny-imagenet | --eval-only $RIFT --student wrn-34-10 --attacks clean,pgd,aa
teacher  52.54 25.52 21.78
# Table 2: CIFAR-100, ResNet-18. BDM-AT | LTD. PGD-AT and TRADES have no teacher, and stand in both columns
table 2: clean fgsm pgd cw aa | cifar100/rn18/bdm cifar100/rn18/ltd
pgd-at       55.80 23.51 19.88 20.46 18.86 | 55.80 23.51 19.88 20.46 18.86
pgd-at+igdm  60.83 38.11 35.09 30.21 29.16 | 60.49 37.22 33.72 29.61 28.02
trades       53.56 29.85 25.85 23.32 22.02 | 53.56 29.85 25.85 23.92 22.02
trades+igdm  60.88 36.26 32.26 26.50 25.50 | 59.29 36.08 32.08 26.10 26.10
ard          61.51 34.23 30.23 26.97 24.77 | 61.34 35.19 31.19 27.74 25.74
ard+igdm     61.62 39.75 35.75 30.99 28.79 | 61.58 37.45 33.45 29.94 27.84
iad          59.92 35.47 31.47 26.91 25.15 | 60.12 36.91 32.91 28.29 26.29
iad+igdm     62.99 37.32 34.76 29.55 27.76 | 62.73 37.69 33.69 29.65 27.49
akd          60.27 35.38 31.38 26.29 25.09 | 60.46 35.53 31.53 27.29 25.37
akd+igdm     60.42 37.63 33.62 29.27 28.86 | 60.31 38.15 34.15 29.44 28.44
rslad        60.22 36.16 32.16 27.96 26.76 | 60.01 36.39 32.39 28.94 26.94
rslad+igdm   62.06 39.67 35.67 30.98 29.78 | 60.43 38.02 34.02 29.94 28.51
adaad        64.43 37.33 33.21 29.53 28.06 | 63.34 37.39 33.39 29.73 27.81
adaiad       64.13 37.33 33.33 29.02 27.82 | 63.24 37.45 33.45 29.04 27.83
adaad+igdm   64.44 39.31 36.19 31.75 30.32 | 63.44 38.23 34.23 31.09 28.87
# Table 3: ResNet-18. CIFAR-10, LTD | SVHN, PGD-AT
table 3: clean fgsm pgd cw aa | cifar10/rn18/ltd svhn/rn18/pgd-at
pgd-at       84.52 52.42 42.80 42.98 41.12 | 91.62 65.93 48.07 48.34 42.46
pgd-at+igdm  84.15 59.21 53.70 51.19 49.63 | 92.57 72.19 60.55 56.10 52.12
trades       82.46 56.97 49.13 47.98 47.09 | 89.91 69.81 57.52 51.32 50.74
trades+igdm  83.50 60.84 54.64 49.34 48.83 | 91.98 71.85 60.09 56.68 54.15
ard          85.04 60.31 53.27 50.27 49.49 | 92.32 70.46 55.62 53.07 48.24
ard+igdm     85.18 61.24 54.75 51.31 50.20 | 92.19 72.01 60.07 56.56 52.95
iad          84.33 61.21 54.24 50.97 50.09 | 91.62 70.82 56.42 53.01 47.76
iad+igdm     84.49 62.45 56.55 53.01 51.09 | 93.03 71.85 58.86 54.66 51.45
akd          85.10 59.07 51.53 49.13 48.04 | 92.49 70.44 56.49 53.91 50.17
akd+igdm     84.94 61.36 54.89 51.55 50.87 | 92.50 71.15 59.38 55.97 52.51
rslad        83.59 60.97 55.98 53.15 52.13 | 90.52 62.74 53.80 50.01 48.41
rslad+igdm   83.67 62.41 57.34 54.00 53.10 | 90.71 64.71 56.14 53.98 50.69
adaad        84.74 61.87 56.78 53.51 52.79 | 93.27 67.14 57.43 54.88 52.93
adaiad       84.75 61.98 57.04 53.57 52.88 | 93.39 67.10 57.26 54.76 52.74
adaad+igdm   84.83 62.54 57.61 55.09 54.02 | 93.48 68.34 58.74 56.03 53.89
# Table 4 and figure 3: input gradients. BDM-AT | LTD
table 4: aa gd gc | cifar100/rn18/bdm cifar100/rn18/ltd
ard         24.77 0.142 0.439 | 25.74 0.108 0.592
ard+igdm    28.79 0.101 0.571 | 27.84 0.082 0.688
iad         25.15 0.135 0.443 | 26.29 0.102 0.596
iad+igdm    27.76 0.104 0.549 | 27.49 0.086 0.674
akd         25.09 0.127 0.438 | 25.37 0.113 0.584
akd+igdm    28.86 0.114 0.513 | 28.44 0.078 0.693
rslad       26.76 0.118 0.492 | 26.94 0.089 0.658
rslad+igdm  29.78 0.096 0.582 | 28.51 0.077 0.709
adaad       28.06 0.107 0.567 | 27.81 0.077 0.736
adaiad      27.82 0.107 0.568 | 27.83 0.077 0.733
adaad+igdm  30.32 0.086 0.643 | 28.87 0.070 0.769
# Table 5: point-wise distance. BDM-AT | LTD | IKL
table 5: point_uniform point_adv | cifar100/rn18/bdm cifar100/rn18/ltd cifar100/rn18/ikl
ard         0.2392 0.2848 | 0.1822 0.2176 | 0.4030 0.4734
ard+igdm    0.1312 0.1533 | 0.1301 0.1501 | 0.1504 0.1690
iad         0.2374 0.2811 | 0.1905 0.2190 | 0.3939 0.4568
iad+igdm    0.1342 0.1684 | 0.1194 0.1395 | 0.1524 0.1971
akd         0.3184 0.3622 | 0.2017 0.2323 | 0.4325 0.4810
akd+igdm    0.1704 0.2081 | 0.1156 0.1312 | 0.1521 0.1698
rslad       0.1903 0.2375 | 0.1686 0.2019 | 0.2227 0.2856
rslad+igdm  0.1233 0.1516 | 0.1219 0.1424 | 0.1361 0.1681
adaad       0.1794 0.2529 | 0.1348 0.2028 | 0.2499 0.3400
adaiad      0.1803 0.2518 | 0.1331 0.2010 | 0.2504 0.3479
adaad+igdm  0.1294 0.1857 | 0.1253 0.1833 | 0.1338 0.2002
# Table 6: the attack with and without the teacher. BDM-AT | LTD | IKL
table 6: aa min_per_epoch memory_mib | cifar100/rn18/bdm cifar100/rn18/ltd cifar100/rn18/ikl
adaad                     28.06 10.62 4711 | 27.81 12.12 4900 | 26.89 10.91 4711
adaad-student-inner       25.62  2.26 2063 | 26.57  2.42 2634 | 23.37  2.27 2063
adaad+igdm                30.32 11.21 4711 | 28.87 13.27 4900 | 29.22  11.3 4711
adaad+igdm-student-inner  29.34  3.36 2611 | 28.12  3.64 3187 | 28.94  3.38 2611
# Table 7: CIFAR-100, LTD | CIFAR-10, LTD with WRN-34-20. 7h: as quoted there from Huang et al.
table 7h: clean aa | cifar100/rn18/ltd cifar10/rn18/ltd2
adaad   62.19 26.74 | 85.58 51.37
adaiad  62.49 27.98 | 85.04 52.96
table 7: clean aa | cifar100/rn18/ltd
adaad       63.34 27.81
adaiad      63.24 27.83
adaad+igdm  63.44 28.87
# B.2 prints no alpha for WRN-34-20: this is CIFAR-10's with WRN-34-10
table 7: clean aa | cifar10/rn18/ltd2
adaad       85.47 52.47
adaiad      85.34  52.3
adaad+igdm   85.5 53.45  --alpha 5
# Table 8: AdaAD's lambda
table 8: clean aa gd gc | cifar100/rn18/bdm
adaad-lambda0.25  66.48 25.51 0.118 0.526
adaad-lambda0.5   65.44 27.24 0.108 0.564
adaad-lambda0.75  64.98 27.42 0.109  0.56
adaad             64.43 27.82 0.107 0.568
adaad+igdm        64.44 30.32 0.086 0.643
# Table 9: OODRobustBench, see ood_program. The paper does not name the teacher; here it is BDM-AT
table 9: clean_ood_d robust_ood_d robust_ood_t | cifar100/rn18/bdm
ard         49.92  15.7 14.91
ard+igdm    50.65 16.98 17.36
iad         48.75 16.21 15.03
iad+igdm    51.43  18.2 17.35
akd         49.74 15.95 14.96
akd+igdm    49.83 18.52 17.07
rslad       48.96 17.41 16.46
rslad+igdm  50.45 19.66 18.53
adaad       51.53 17.77 17.32
adaiad      51.18 17.75 17.26
adaad+igdm  51.52 19.66 18.65
# Table 10: CIFAR-100, MobileNetV2. BDM-AT | LTD. The first arXiv version's abstract has 29.52 for 29.32
table 10: clean pgd aa gd gc | cifar100/mnv2/bdm cifar100/mnv2/ltd
pgd-at       59.23 24.04 21.58 0.204 0.408 | 59.23 24.04 21.58 0.194 0.486
pgd-at+igdm  59.52 32.88 27.28 0.109 0.528 | 59.70 32.59 27.14 0.091 0.636
trades       51.05 24.83 20.62 0.132 0.377 | 51.05 24.83 20.62 0.119 0.460
trades+igdm  57.80 29.47 22.05 0.097 0.469 | 56.81 29.87 23.38 0.081 0.640
ard          60.74 29.92 24.33 0.137 0.445 | 60.55 30.82 25.28 0.111 0.569
ard+igdm     60.83 33.55 27.50 0.107 0.534 | 60.44 33.36 27.59 0.082 0.681
iad          56.35 28.96 23.43 0.129 0.430 | 56.11 29.55 24.22 0.106 0.547
iad+igdm     57.65 31.97 25.60 0.106 0.506 | 58.60 31.36 25.64 0.090 0.617
akd          60.84 29.37 24.22 0.135 0.428 | 60.65 29.84 24.85 0.112 0.564
akd+igdm     60.39 33.62 28.04 0.104 0.538 | 59.94 33.70 28.12 0.077 0.715
rslad        61.29 31.74 26.18 0.121 0.490 | 60.43 32.37 26.85 0.092 0.632
rslad+igdm   61.48 35.22 29.32 0.101 0.560 | 60.36 33.99 28.00 0.079 0.696
adaad        61.89 29.54 23.80 0.118 0.497 | 61.43 30.58 25.03 0.091 0.649
adaiad       60.83 29.94 23.83 0.116 0.499 | 61.22 30.78 25.22 0.088 0.652
adaad+igdm   61.43 33.51 27.43 0.097 0.583 | 61.57 33.14 27.65 0.076 0.721
# Table 11: CIFAR-10, MobileNetV2. BDM-AT | LTD
table 11: clean pgd aa gd gc | cifar10/mnv2/bdm cifar10/mnv2/ltd
pgd-at       83.52 44.47 41.19 0.175 0.406 | 83.52 44.47 41.19 0.171 0.505
pgd-at+igdm  82.78 51.54 47.13 0.074 0.501 | 81.73 52.63 48.51 0.048 0.671
trades       81.57 50.49 46.88 0.074 0.492 | 81.57 50.49 46.88 0.062 0.605
trades+igdm  82.33 52.94 47.70 0.050 0.502 | 81.82 52.96 47.47 0.039 0.645
ard          84.38 48.26 44.02 0.091 0.371 | 84.18 52.16 48.11 0.054 0.578
ard+igdm     84.53 52.45 45.06 0.071 0.467 | 84.25 54.03 49.53 0.042 0.684
iad          83.79 48.36 44.02 0.088 0.385 | 83.38 52.71 48.45 0.051 0.592
iad+igdm     84.27 52.42 45.08 0.063 0.497 | 83.65 54.57 50.14 0.038 0.704
akd          83.75 47.15 43.43 0.093 0.368 | 84.46 50.84 46.96 0.057 0.566
akd+igdm     83.29 53.29 48.41 0.064 0.527 | 83.98 54.40 49.99 0.040 0.691
rslad        84.69 50.94 47.38 0.074 0.491 | 82.60 54.55 50.44 0.040 0.706
rslad+igdm   84.64 52.33 49.27 0.068 0.515 | 82.61 55.02 51.01 0.039 0.706
adaad        84.51 50.67 46.56 0.069 0.516 | 84.24 55.47 51.36 0.034 0.777
adaiad       85.04 51.33 47.62 0.068 0.519 | 84.14 55.58 51.48 0.034 0.778
adaad+igdm   84.75 52.35 48.34 0.065 0.526 | 84.27 56.15 52.15 0.033 0.790
# Table 12: CIFAR-100, IKL. ResNet-18 | MobileNetV2
table 12: clean pgd aa gd gc | cifar100/rn18/ikl cifar100/mnv2/ikl
pgd-at       55.80 19.88 18.86 0.460 0.306 | 59.23 24.04 21.58 0.211 0.392
pgd-at+igdm  62.91 35.25 28.89 0.122 0.534 | 59.75 33.59 27.02 0.120 0.517
trades       53.56 25.85 22.02 0.199 0.354 | 51.05 24.83 20.62 0.148 0.351
trades+igdm  62.41 31.79 24.02 0.116 0.467 | 59.34 29.36 22.40 0.120 0.444
ard          61.38 27.59 23.18 0.178 0.400 | 61.52 28.00 23.40 0.164 0.420
ard+igdm     61.55 35.24 28.87 0.117 0.546 | 61.95 32.26 26.48 0.132 0.498
iad          61.09 29.25 23.61 0.173 0.403 | 58.39 28.40 23.06 0.147 0.418
iad+igdm     64.20 33.71 27.03 0.132 0.506 | 59.58 30.96 25.42 0.128 0.478
akd          61.90 29.23 23.96 0.171 0.412 | 61.69 27.87 23.60 0.159 0.431
akd+igdm     61.94 33.16 27.82 0.131 0.511 | 61.56 33.62 27.32 0.117 0.519
rslad        61.18 30.54 25.27 0.147 0.444 | 61.95 30.16 25.09 0.157 0.441
rslad+igdm   63.55 35.26 29.10 0.119 0.541 | 62.48 35.25 28.82 0.118 0.547
adaad        65.36 32.29 26.89 0.133 0.525 | 62.35 28.51 23.01 0.140 0.470
adaiad       65.29 32.47 26.80 0.133 0.527 | 62.17 28.48 23.39 0.139 0.473
adaad+igdm   66.00 34.47 29.22 0.119 0.582 | 62.02 32.85 26.11 0.119 0.533
# Table 13: CIFAR-10, IKL. ResNet-18 | MobileNetV2
table 13: clean pgd aa gd gc | cifar10/rn18/ikl cifar10/mnv2/ikl
pgd-at       84.52 42.80 41.12 0.409 0.286 | 83.52 44.47 41.19 0.175 0.401
pgd-at+igdm  83.66 54.38 49.85 0.072 0.541 | 82.11 51.13 47.00 0.063 0.507
trades       82.46 49.13 47.09 0.131 0.425 | 81.57 50.49 46.88 0.073 0.489
trades+igdm  83.14 54.91 48.76 0.098 0.455 | 81.67 52.32 47.40 0.057 0.492
ard          85.41 49.36 45.32 0.087 0.389 | 84.68 48.03 44.11 0.087 0.376
ard+igdm     85.78 54.37 46.52 0.072 0.467 | 84.72 50.89 46.13 0.070 0.473
iad          85.22 49.70 45.96 0.083 0.393 | 84.25 48.58 44.15 0.082 0.390
iad+igdm     83.78 54.77 50.24 0.061 0.521 | 83.89 51.46 46.48 0.069 0.458
akd          83.62 51.81 46.01 0.080 0.395 | 84.52 47.56 43.27 0.154 0.421
akd+igdm     83.70 53.69 49.45 0.067 0.539 | 84.33 50.36 45.37 0.089 0.438
rslad        85.55 52.13 48.83 0.069 0.531 | 84.62 51.43 47.69 0.072 0.503
rslad+igdm   85.67 53.30 49.58 0.065 0.541 | 84.30 53.14 48.91 0.066 0.523
adaad        86.59 54.25 50.86 0.062 0.570 | 85.31 52.10 48.03 0.066 0.524
adaiad       86.57 54.59 50.61 0.062 0.572 | 85.47 52.05 47.96 0.066 0.523
adaad+igdm   86.10 55.41 51.29 0.060 0.587 | 85.11 53.07 49.08 0.061 0.541
# Table 14: Tiny-ImageNet, PreActResNet-18, RiFT. The alphas are B.2's for RiFT, which a path does not name
table 14: clean pgd aa gd gc | tiny-imagenet/parn18 | --teacher $RIFT --teacher-arch wrn-34-10
pgd-at       50.13 17.10 14.58 0.126 0.490
pgd-at+igdm  51.46 25.04 20.10 0.071 0.672  --alpha 30
trades       46.51 19.51 14.89 0.094 0.447
trades+igdm  51.31 24.10 18.92 0.073 0.649  --alpha 20
ard          50.81 23.37 19.48 0.081 0.613
ard+igdm     50.86 25.39 20.57 0.069 0.683  --alpha 10
iad          49.89 23.89 19.10 0.079 0.614
iad+igdm     50.02 25.57 20.69 0.066 0.704  --alpha 20
akd          51.70 23.86 19.69 0.082 0.612
akd+igdm     51.38 25.25 20.99 0.063 0.720  --alpha 10
rslad        47.12 22.14 17.65 0.081 0.567
rslad+igdm   47.54 23.95 18.35 0.074 0.620  --alpha 1
adaad        51.54 24.65 20.60 0.064 0.738
adaad+igdm   51.21 25.73 21.17 0.060 0.764  --alpha 10
# Table 15 and figure 5: direct matching, eq. 11
table 15: clean pgd aa gd gc | cifar100/rn18/bdm
ard-direct-a1      60.92 30.56 25.23 0.136 0.447
ard-direct-a3      60.98 30.29 24.88 0.137 0.444
ard-direct-a6      61.13 30.34 25.27 0.135 0.448
ard-direct-a10     61.05 30.80 25.33 0.132 0.453
ard-direct-a30     61.43 30.45 25.29 0.127 0.455
ard-direct-a60     61.14 30.17 24.73 0.124 0.450
ard-direct-a100    60.36 30.48 24.62 0.121 0.445
ard-direct-a300    59.63 29.72 23.99 0.116 0.440
ard-direct-a600    58.79 29.76 24.06 0.111 0.441
ard-direct-a1000   57.08 29.89 24.14 0.108 0.445
ard-direct-a3000   51.30 29.13 22.85 0.104 0.441
ard-direct-a6000   46.95 27.33 20.70 0.105 0.424
ard-direct-a10000  43.22 25.67 19.18 0.105 0.404
ard                61.51 30.23 24.77 0.142 0.439
ard+igdm           61.62 35.75 28.79 0.101 0.571
# Table 16: TRADES-like terms in place of IGDM
table 16: clean pgd aa gd gc | cifar100/rn18/bdm
ard-trades-reg-a1    57.86 31.44 25.95 0.125 0.459
ard-trades-reg-a5    58.07 32.13 26.06 0.117 0.466
ard-trades-reg-a10   53.58 32.01 26.27 0.116 0.463
ard-trades-reg-a15   52.05 31.53 26.23 0.115 0.464
ard-trades-reg-a20   50.87 31.92 26.30 0.115 0.462
ard-trades-reg-a25   50.28 31.92 26.15 0.115 0.458
ard-trades-reg-a30   49.20 31.93 25.87 0.115 0.456
ard-trades-like-a1   57.73 31.72 25.64 0.119 0.461
ard-trades-like-a5   54.18 31.71 25.79 0.117 0.466
ard-trades-like-a10  52.21 32.08 25.98 0.118 0.464
ard-trades-like-a15  50.50 31.85 25.91 0.118 0.457
ard-trades-like-a20  49.67 31.76 25.78 0.118 0.452
ard-trades-like-a25  48.21 31.33 25.38 0.119 0.445
ard-trades-like-a30  47.61 31.04 25.05 0.119 0.439
ard                  61.51 30.23 24.77 0.142 0.439
ard+igdm             61.62 35.75 28.79 0.101 0.571
# Table 17: alpha for PGD-AT; B.2's is 220
table 17: clean pgd aa gd gc | cifar100/rn18/bdm
pgd-at             55.8 19.88 18.86 0.452 0.389
pgd-at+igdm-a20   56.95 28.10 24.02 0.157 0.427
pgd-at+igdm-a40   58.23 30.36 25.71 0.139 0.457
pgd-at+igdm-a60   58.74 31.69 26.57 0.131 0.483
pgd-at+igdm-a80   59.01 32.02 27.08 0.123 0.504
pgd-at+igdm-a100  59.20 33.09 27.48 0.118 0.519
pgd-at+igdm-a120  59.42 33.60 27.95 0.114 0.531
pgd-at+igdm-a140  59.32 34.18 28.26 0.111 0.542
pgd-at+igdm-a160  60.06 34.38 28.47 0.108 0.550
pgd-at+igdm-a180  60.53 34.47 28.51 0.105 0.556
pgd-at+igdm-a200  60.83 34.90 28.84 0.104 0.562
pgd-at+igdm       60.68 35.09 29.16 0.102 0.569
pgd-at+igdm-a240  59.65 35.34 29.10 0.101 0.572
pgd-at+igdm-a260  59.71 35.37 29.09 0.100 0.573
pgd-at+igdm-a280  59.83 35.23 28.84 0.099 0.576
pgd-at+igdm-a300  59.95 35.39 29.13 0.098 0.579
# Table 18: alpha for ARD; B.2's is 100
table 18: clean pgd aa gd gc | cifar100/rn18/bdm
ard            61.51 30.23 24.77 0.1422 0.439
ard+igdm-a20   59.74 33.97 27.85  0.112 0.523
ard+igdm-a40   60.13 34.21 28.56  0.106 0.546
ard+igdm-a60   61.08 34.54 28.42  0.104 0.557
ard+igdm-a80   60.78 35.21 28.73  0.102 0.568
ard+igdm       61.18 35.75 28.79  0.101 0.571
ard+igdm-a120  61.15 35.17 28.67  0.099 0.578
ard+igdm-a140  61.24 35.32 28.75  0.098 0.583
ard+igdm-a160  60.76 35.81 28.71  0.096 0.584
ard+igdm-a180  60.19 35.67 28.78  0.095 0.585
ard+igdm-a200  59.95 35.19 28.67  0.095 0.585
ard+igdm-a220  59.42 35.24 28.76  0.096 0.588
ard+igdm-a240  59.76 34.78 28.74  0.095 0.587
ard+igdm-a260  59.04 35.01 28.36  0.095 0.586
ard+igdm-a280  59.56 35.21 28.59  0.095 0.589
ard+igdm-a300  58.91 34.78 28.58  0.095 0.582
# Figure 2: remainder (a) of teachers, (b) in training; TRADES with beta 0 and no attack is natural training
table f2: | cifar100 | --attacks clean,pgd,aa
bdm ltd ikl
table f2: | cifar100/rn18 | --epochs 100 --attacks clean,fgsm,pgd
natural-e100 --method trades --trades-beta 0 --steps 0
pgd-at-e100
bdm-ard-e100 --method ard --teacher bdm
# Figure 4: students by teacher, table 2's and five more of RobustBench. For these no alpha is printed: LTD's
table f4: | cifar100/rn18/bdm cifar100/rn18/ltd
ard iad akd rslad adaad adaad+igdm
table f4: | cifar100/rn18/Rice2020Overfitting cifar100/rn18/Sitawarin2020Improving \
    cifar100/rn18/Chen2020Efficient cifar100/rn18/Hendrycks2019Using \
    cifar100/rn18/Cui2020Learnable_34_10_LBGAT6 | --attacks clean,pgd,aa
ard iad akd rslad adaad
adaad+igdm --alpha 15
# Ours, see .github/results.md: a teacher of 1,437 digits, students of 300; then ten classes of CIFAR-100
table digits: | digits
teacher --method pgd-at --student wrn-10-2 --epochs 40 --probe 0 --threads 1 --attacks clean,fgsm,pgd
table digits: | digits | --limit-train 300 --epochs 150 --student wrn-10-1 --probe 0 --threads 1 \
    --teacher runs/digits-teacher-s0/student.pt --attacks clean,fgsm,pgd,aa --aa-n 100
pgd-at trades ard iad akd rslad adaad adaiad
pgd-at+igdm trades+igdm ard+igdm iad+igdm akd+igdm adaad+igdm adaiad+igdm --alpha 20
rslad+igdm --alpha 1
table ten: | ten | --batch 64 --probe 0 --precision bf16 --attacks clean,pgd
teacher --method pgd-at --student wrn-16-2 --epochs 24 --steps 5
table ten: | ten | --limit-train 300 --epochs 100 --batch 64 --student wrn-10-1 --probe 0 --precision bf16 \
    --threads 1 --teacher runs/ten-teacher-s0/student.pt --attacks clean,fgsm,pgd,aa --aa-n 100
pgd-at ard rslad adaad
pgd-at+igdm ard+igdm adaad+igdm --alpha 20
rslad+igdm --alpha 1
table demo: | demo | --probe 0 --attacks clean,fgsm,pgd
teacher --method pgd-at --student wrn-10-2 --epochs 12
table demo: | demo | --limit-train 300 --epochs 150 --student wrn-10-1 --probe 0 --threads 1 \
    --teacher runs/demo-teacher-s0/student.pt --attacks clean,fgsm,pgd
ard
ard+igdm --alpha 20
END
}

# Table 9. What the paper ran is not known. Here OOD_d is the mean over CIFAR-100-C, because the suite has no
# natural shifts for CIFAR-100; OOD_t is the mean over the 6 threats of its README. Its attack mm5 needs CUDA.
ood_program() { cat <<'END'
import json, os, sys
import torch
from filelock import FileLock
import models
student = models.build("rn18", 100)
models.load_state(student, sys.argv[1] + "/student.pt", "rn18")
os.makedirs("data", exist_ok=True)
data = os.path.abspath("data")
os.chdir(sys.argv[1])                       # the suite keeps each shift in model_info, and goes on from there
from oodrobustbench.eval import benchmark
from robustbench.data import load_cifar100, load_cifar100c
with FileLock(data + "/.oodrobustbench"):   # one worker downloads
    load_cifar100(1, data)
    load_cifar100c(1, 1, data)
def measure(attack, norm, eps, **shifts):
    return benchmark(student.eval(), n_examples=10000, dataset="cifar100", attack=attack, threat_model="Linf",
                     adv_norm=norm, eps=eps, to_disk=True, model_name="student", data_dir=data,
                     device=torch.device("cuda"), batch_size=100, **shifts)
found = measure("mm5", "Linf", 8 / 255, corruption_models=["corruptions"], severities=[1, 2, 3, 4, 5])[2]
cells = [cell for severities in found["corruptions"].values() for cell in severities.values()]
assert len(cells) == 75, "%d cells of CIFAR-100-C, not 75" % len(cells)
threats = [("lpa", None, 0.5), ("ppgd", None, 0.5), ("stadv", None, 0.05), ("recolor", None, 0.06),
           ("mm5", "L2", 0.5), ("mm5", "Linf", 0.0470588)]
threats = {"%s %s %g" % threat: 100 * measure(*threat)[1] for threat in threats}
with open("ood.part", "w") as file:
    json.dump(dict(clean_ood_d=100 * sum(cell["clean"] for cell in cells) / 75,
                   robust_ood_d=100 * sum(cell["Linf-mm5-0.031373"] for cell in cells) / 75,
                   robust_ood_t=sum(threats.values()) / 6, threats=threats), file)
os.replace("ood.part", "ood.json")
END
}

measure_ood() { # FOLDER: of a finished run of table 9
    local python=${OOD_PYTHON:-$PYTHON} suite=git+https://github.com/OODRobustBench/OODRobustBench.git
    "$python" -c 'import oodrobustbench' 2>/dev/null || { say "table 9: pip install $suite"; return; }
    do_run "$1" ood.json "$python" -u -c "$(ood_program)" "$1"
}

refuse() { echo "run_all.sh: $*" >&2; exit 2; }
say() { echo "$(date +%T)  $*"; }
stop() { trap '' INT TERM; jobs -p | xargs kill 2>/dev/null; wait; exit "$1"; }

read_name() {   # COLUMN RUN: into name, flags, and key, the teacher in whose column a run without one stands
    local dataset student teacher
    IFS=/ read -r dataset student teacher <<<"$1"
    name=${1//\//-}-$2 key=''
    case $dataset in demo) dataset=digits ;; ten) dataset=ten.npz ;; esac
    flags="--dataset $dataset${student:+ --student $student}"
    if [[ $teacher && $2 =~ ^(pgd-at|trades)$ ]]; then      # one run, measured against each teacher
        name=$dataset-$student-$2
        [[ $dataset = svhn ]] || key=$teacher teacher=bdm,ltd,ikl
        [[ $name != cifar10-rn18-* ]] || teacher=ltd,ikl
    fi
    [[ $teacher != [A-Z]* ]] || teacher=robustbench:$teacher
    flags+=${teacher:+ --teacher $teacher}
    [[ ! $2 =~ ^(pgd-at|trades|ard|iad|akd|rslad|adaad|adaiad) ]] || flags+=" --method ${BASH_REMATCH[1]}"
    [[ $2 != *+igdm* ]] || flags+=" --igdm"
    [[ ! $2 =~ -(direct|trades-reg|trades-like)-a ]] || flags+=" --match ${BASH_REMATCH[1]}"
    [[ ! $2 =~ -a([0-9]+)$ ]] || flags+=" --alpha ${BASH_REMATCH[1]}"
    [[ ! $2 =~ -lambda([0-9.]+)$ ]] || flags+=" --adaad-lambda ${BASH_REMATCH[1]}"
    [[ $2 != *-student-inner ]] || flags+=" --inner student"
}

add_run() {     # TABLE RUN: the run that read_name has read, for this seed
    local seed=$seed id out small="--teacher pgd-at --teacher-arch wrn-10-1 --teacher-epochs 1"
    [[ $flags != *--eval-only* ]] || seed=${seeds%% *}      # teachers once
    [[ ! $name =~ ^$groups-teacher ]] || seed=0
    out=$runs/$name-s$seed id=$runs/$name-s$seed
    [[ $1 != 9 || $smoke ]] || in_table_9+=" $out "
    if [[ $smoke ]]; then                   # each kind once; the last of two equal flags counts
        id=${2//[0-9.]/}
        [[ $flags != *--igdm* ]] || flags+=" --alpha 1"
        [[ $flags != *--teacher* ]] || flags+=" $small"
        [[ $flags != *--eval-only* ]] || flags+=" --eval-only pgd-at $small" id=evaluation
        flags+=" --dataset digits --student wrn-10-1 --limit-train 128 --limit-test 50 --epochs 2 --steps 2"
        flags+=" --device cpu --threads 1 --attacks clean,pgd"
    fi
    [[ $added != *" $id "* ]] || return
    added+=" $id " commands+=("$PYTHON igdm.py $flags ${EXTRA-} --seed $seed --out $out")
}

read_blocks() { # prints what the paper prints, or adds the runs that are wanted
    local table metrics columns common line rest values run column metric
    while read -r line rest; do
        [[ $line != table ]] || { IFS=':|' read -r table metrics columns common <<<"$rest"; continue; }
        read -ra values <<<"${rest//|/}"
        [[ $metrics = *[a-z]* ]] || line+=" ${rest%%--*}"
        for run in $line; do for column in $columns; do
            read_name "$column" "$run"
            [[ $column = */* || $table =~ ^$groups$ ]] || flags="--dataset $column --eval-only $run"
            flags+=" $common"
            [[ $rest != *--* ]] || flags+=" --${rest#*--}"
            for metric in $metrics; do
                [[ $mode != paper ]] || printf "$table\t$name\t$key\t$metric\t%s\n" "${values[0]}"
                values=("${values[@]:1}")
            done
            known+=" ${table%h} $name "
            [[ $wanted != *" ${table%h} "* && $wanted != *" $name "* ]] || add_run "$table" "$run"
        done; done
    done < <(blocks | grep -v '^#')
}

do_run() {      # FOLDER MARK COMMAND...: unless FOLDER has MARK already; the exit status into code
    code=0
    [[ ! -e $1/$2 ]] || return 0
    mkdir -p "$1" && say "begins: $1/output.txt"
    "${@:3}" </dev/null >>"$1/output.txt" 2>&1 &    # in the background: a signal ends wait, not a command
    wait $!; code=$?
    case $code in
        0) touch "$1/$2" ;;
        75) say "busy, passed over: $1" ;;
        130 | 143) exit "$code" ;;
        *) echo "FAILED: $1: $(tail -n 1 "$1/output.txt")" | tee -a "$failed" ;;
    esac
}

work() {        # K GPU: the runs K, K + workers, K + 2 workers, ...
    trap 'stop 143' INT TERM
    [[ $2 = any ]] || export CUDA_VISIBLE_DEVICES=$2
    for i in "${!commands[@]}"; do
        out=${commands[i]##* }
        ((i % workers == $1)) || continue
        do_run "$out" .done bash -c "exec ${commands[i]}"
        ((code)) || [[ $in_table_9 != *" $out "* ]] || measure_ood "$out"
    done
}

groups='(demo|digits|ten)' mode=run smoke='' runs=runs seeds=0 wanted='' known='' added='' in_table_9=''
while (($#)); do
    case $1 in
        -h | --help) sed -n '4,/^$/ s/^# \{0,1\}//p' "$0"; exit ;;
        --list | --paper) mode=${1#--} ;;
        --smoke) smoke=1 runs=runs/smoke ;;
        --seeds) seeds=${2-}; shift ;;
        *) wanted+=" $1 " ;;
    esac
    shift
done
[[ $seeds =~ ^[0-9]+(\ [0-9]+)*$ ]] || refuse "--seeds \"$seeds\": give numbers, as in \"0 1 2\""
cd "$(dirname "$0")" || exit
if [[ ! -e igdm.py && ${SLURM_SUBMIT_DIR-} ]]; then         # Slurm runs a copy of this script from elsewhere
    cd "$SLURM_SUBMIT_DIR" && mkdir -p runs || exit
    exec >>"runs/slurm-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}_${SLURM_ARRAY_TASK_ID:-0}.txt" 2>&1
fi
[[ -e igdm.py ]] || refuse "no igdm.py in $PWD: run or submit it from its folder"
export PYTHONUNBUFFERED=1 PYTHON=${PYTHON:-python} RIFT=${RIFT:-pgd-at}
wanted=${wanted:- $(echo {1..18} f2 f4) } commands=()
for seed in $seeds; do read_blocks; [[ $mode != paper ]] || exit 0; done
for word in $wanted; do [[ $known = *" $word "* ]] || refuse "$word? Try 1 to 18, f2, f4, $groups"; done
[[ $mode != list ]] || { printf '%s\n' "${commands[@]}" | tr -s ' '; exit; }
[[ $RIFT != pgd-at || ${commands[*]} != *tiny-imagenet* ]] || say "no RIFT: a PGD-AT teacher stands in"
failed=$(mktemp) pids='' stopped=0; trap 'rm -f "$failed"' EXIT
trap 'say "stopped; the same command goes on"; stop 130' INT
trap 'say "stopped; the same command goes on"; stop 143' TERM
[[ ! $wanted =~ \ $groups ]] || GPUS=${GPUS:-any any}       # two at a time, with a thread each
read -ra gpus <<<"${GPUS:-any}"
tasks=${SLURM_ARRAY_TASK_COUNT:-1} min=${SLURM_ARRAY_TASK_MIN:-0}
((${SLURM_ARRAY_TASK_MAX:-0} - min < tasks)) || refuse "--array has gaps: give FIRST-LAST, the same each time"
workers=$((${#gpus[@]} * tasks)) first=$((${#gpus[@]} * (${SLURM_ARRAY_TASK_ID:-0} - min)))
for command in "${commands[@]}"; do          # first the teachers that the runs after them read
    [[ $command =~ /$groups-teacher-s0$ ]] || continue
    while do_run "${command##* }" .done bash -c "exec $command"; ((code == 75)); do sleep 3; done
    ((!code)) || { cat "$failed"; exit 1; }
done
for k in "${!gpus[@]}"; do work $((first + k)) "${gpus[k]}" & pids+=" $!"; done
for pid in $pids; do wait "$pid" || stopped=$?; done
((!stopped)) || exit "$stopped"
[[ $smoke || ! $wanted =~ \ $groups ]] || "$PYTHON" igdm.py --report runs || exit
[[ ! -s $failed ]] || { cat "$failed"; exit 1; }
