"""Tests of what turns replies into figures: `python3 -m unittest discover benches/serving`."""

import struct
import tempfile
import unittest
from pathlib import Path

import gguf
import report
from trie import Ideal


class IdealCounts(unittest.TestCase):
    def test_a_prompt_that_goes_on_costs_what_was_added_and_the_last_token_of_the_reply(self):
        ideal = Ideal()
        self.assertEqual(ideal.submit("m", [1, 2, 3]), 3)
        ideal.finish("m", [1, 2, 3, 4, 5])
        self.assertEqual(ideal.submit("m", [1, 2, 3, 4, 5, 6]), 2)

    def test_a_prompt_that_is_all_known_costs_one_token(self):
        ideal = Ideal()
        ideal.submit("m", [1, 2, 3])
        self.assertEqual(ideal.submit("m", [1, 2, 3]), 1)
        self.assertEqual(ideal.submit("m", [1, 2]), 1)

    def test_the_beginning_counts_and_nothing_after_the_first_difference(self):
        ideal = Ideal()
        ideal.submit("m", [1, 2, 3, 4])
        self.assertEqual(ideal.submit("m", [1, 9, 3, 4]), 3)

    def test_models_know_nothing_of_each_other(self):
        ideal = Ideal()
        ideal.submit("m", [1, 2, 3])
        self.assertEqual(ideal.submit("other", [1, 2, 3]), 3)


class Promises(unittest.TestCase):
    def figures(self, workload, computed, is_full_attention=True, miscounted=0):
        return {
            "workload": workload,
            "model": "m",
            "requests": 10,
            "prompt_tokens_computed": computed,
            "prompt_tokens_ideal": 10_000,
            "is_full_attention": is_full_attention,
            "miscounted_requests": miscounted,
        }

    def kept(self, *arguments, **named):
        return not report.broken_promises(self.figures(*arguments, **named))

    def test_a_block_a_request_and_two_in_a_hundred_are_granted(self):
        self.assertTrue(self.kept("W1", 12_760))
        self.assertFalse(self.kept("W1", 12_761))

    def test_the_house_has_a_limit_for_each_kind_of_memory(self):
        self.assertTrue(self.kept("W8", 10_500))
        self.assertFalse(self.kept("W8", 10_501))
        self.assertTrue(self.kept("W8", 12_000, is_full_attention=False))
        self.assertFalse(self.kept("W8", 12_001, is_full_attention=False))

    def test_a_count_that_cannot_be_trusted_is_no_kept_promise(self):
        self.assertFalse(self.kept("W1", 10_000, miscounted=1))


class Percentiles(unittest.TestCase):
    def test_they_are_values_that_were_seen(self):
        self.assertEqual(report.percentile(range(1, 21), 0.5), 10)
        self.assertEqual(report.percentile(range(1, 21), 0.95), 19)
        self.assertEqual(report.percentile([7], 0.95), 7)
        self.assertIsNone(report.percentile([], 0.5))


class Headers(unittest.TestCase):
    def test_a_stretched_copy_differs_in_its_context_alone(self):
        def text(value):
            return struct.pack("<Q", len(value)) + value.encode()

        fields = [
            text("general.architecture") + struct.pack("<I", 8) + text("mamba2"),
            text("mamba2.context_length") + struct.pack("<II", 4, 256),
            text("mamba2.ssm.state_size") + struct.pack("<II", 4, 16),
            text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
        ]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + b"".join(fields))
            facts = gguf.read(str(path))
            self.assertEqual((facts.architecture, facts.context_train, facts.tokens), ("mamba2", 256, ["a", "b"]))
            self.assertFalse(facts.is_full_attention or facts.has_chat_template)
            self.assertEqual(gguf.stretched(facts, 256, folder), facts)
            copy = gguf.stretched(facts, 8192, str(Path(folder) / "copies"))
            self.assertEqual(copy, facts._replace(path=copy.path, context_train=8192))
            self.assertEqual(gguf.read(str(path)), facts)


if __name__ == "__main__":
    unittest.main()
