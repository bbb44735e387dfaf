"""Carry records of one file a run, and of a hash of the whole config, over to a file a study.

The old hash covered every key of the resolved config; the new one covers what determines a run's
numbers (`cbam_det.studies.records.DETERMINE`). Each old record is carried over only where its old
hash is that of its row's config as it is now, so that nothing but the hash's scope has changed; the
keys that no longer count are printed for each study.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from cbam_det.studies.records import DETERMINE, add_record, config_hash, records_path
from cbam_det.studies.study import Row, Study, config_of, read_study, run_name
from cbam_det.utils.errors import InputError, one_line_errors

ROOT = Path(__file__).resolve().parents[1]


def old_hash(study: Study, row: Row, seed: int) -> str:
    """Of the whole resolved config, as records had it."""
    cfg = json.dumps(config_of(study, row, seed).to_dict(), sort_keys=True, default=str)
    for key, name in sorted(row.weights.items()):
        cfg += f'{key}={old_hash(study, study.rows[name], seed)}'
    return hashlib.sha256(cfg.encode()).hexdigest()[:12]


def carry(study: Study, source: Path, results: Path) -> list[Path]:
    """Write the records of a study's own runs as lines; returns the old files."""
    done, left_out = [], set()
    for row in study.rows.values():
        for seed in row.seeds:
            path = source / f'{run_name(study, row, seed)}.json'
            record = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None
            if record is None or f'run {study.name} ' not in record['command']:
                continue
            if record['config_hash'] != old_hash(study, row, seed):
                raise InputError(f'{path} is of another config than its row has now; run it anew')
            left_out |= set(config_of(study, row, seed).to_dict()) - set(DETERMINE)
            record['config_hash'] = config_hash(study, row, seed)
            add_record(results, study, row, seed, record)
            done.append(path)
    if done:
        print(
            f'{records_path(results, study)}: {len(done)} records; resolved configs all alike; '
            f'keys that count no more: {", ".join(sorted(left_out))}; hooks that change no number'
        )
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='example: python -m benchmarks.carry_records OLD RESULTS'
    )
    parser.add_argument('source', type=Path, help='folder of the old records, a JSON file a run')
    parser.add_argument('results', type=Path, help='folder of the new ones')
    args = parser.parse_args()
    done = []
    for path in sorted((ROOT / 'experiments').glob('*.yaml')):
        done += carry(read_study(path), args.source, args.results)
    for path in done:
        path.unlink()
    print(f'{len(done)} files removed from {args.source}')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
