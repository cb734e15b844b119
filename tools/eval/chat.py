"""Prompts as tokens: texts as they stand, chats by the template that the model's file carries.

A control token ("<|im_end|>") counts where the template writes it, not where a message does: there
it is cut behind its first letter, and the two parts become tokens apart.

Docs: docs/31-tasks.md"""
import datetime

import numpy as np

from .problems import Failed, needed

KEY = "tokenizer.chat_template"
CUT = "\uf8ff"  # of Unicode's private use: where a message's text is cut


class ChatTemplate:
    """variables: what the template may ask for beside messages (reasoning_effort, ...). today: a
    date, for templates that name one; always the same, so that a run can be done again."""

    def __init__(self, model, variables=None, today="2025-01-01"):
        for part in "jinja2.ext", "jinja2.sandbox", "jinja2":  # chats alone need it
            jinja2 = needed(part, "a problem with messages")
        self.errors = jinja2.exceptions.TemplateError
        self.model, self.variables = model, variables or {}
        try:
            day = datetime.date.fromisoformat(today)
        except ValueError as error:
            raise Failed(f"--today {today}: {error}") from error
        world = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        world.globals.update(raise_exception=self.refuse, strftime_now=day.strftime)
        try:
            self.template = world.from_string(self.source(model))
        except self.errors as error:
            raise Failed(f"{KEY}: {error}") from error

    @staticmethod
    def source(model):
        try:
            return model.text(KEY)
        except Exception as error:
            raise Failed(f"{error}: a problem with messages needs it, one with a prompt does "
                         "not") from error

    @staticmethod
    def refuse(words):
        raise Failed(f"{KEY} refuses these messages: {words}")

    def render(self, messages):
        """The text of a chat up to where the model goes on; CUT stands in control tokens that a
        message spells."""
        spelled = {name: spelling(self.model, getattr(self.model, name)) for name in ("bos", "eos")}
        told = [{**one, "content": cut_control_tokens(self.model, one["content"])}
                for one in messages]
        try:
            return self.template.render(messages=told, add_generation_prompt=True,
                                        bos_token=spelled["bos"], eos_token=spelled["eos"],
                                        **self.variables)
        except (self.errors, TypeError, ValueError) as error:
            raise Failed(f"{KEY}: {error}") from error


def spelling(model, token):
    return "" if token < 0 else model.detokenize(np.array([token], np.int32)).decode()


def tokens_of(model, text, special):
    return model.tokenize(text, add_special=False, parse_special=special).tolist()


def control_tokens_in(model, text):
    """Spellings of the control tokens that are found in a text."""
    plain, special = tokens_of(model, text, False), tokens_of(model, text, True)
    if plain == special:
        return []
    found = {spelling(model, token) for token in special}
    return sorted((one for one in found if one and one in text and
                   len(tokens_of(model, one, True)) == 1 and
                   tokens_of(model, one, True) != tokens_of(model, one, False)),
                  key=len, reverse=True)


def cut_control_tokens(model, text):
    if CUT in text:
        raise Failed("a message with the character U+F8FF, which marks cuts in messages")
    while found := control_tokens_in(model, text):
        for one in found:
            text = text.replace(one, one[0] + CUT + one[1:])
    return text


def with_bos(model, tokens):
    """BOS in front where the vocabulary wants it and the text does not begin with it."""
    wanted = model.tokenize("", add_special=True).tolist()[:1] == [model.bos] and model.bos >= 0
    return [model.bos, *tokens] if wanted and tokens[:1] != [model.bos] else tokens


def rendered(problem, template):
    """A problem's prompt as text, before it becomes tokens."""
    return problem.prompt if problem.messages is None else template().render(problem.messages)


def prompt_tokens(model, problem, template):
    """i32. `template` gives the ChatTemplate, if one is asked for. A prompt that is text is read as
    rotkv-generate reads it: whoever writes it may spell control tokens."""
    text = rendered(problem, template)
    parts = [text] if problem.messages is None else text.split(CUT)
    tokens = [token for part in parts for token in tokens_of(model, part, True)]
    return np.array(with_bos(model, tokens), np.int32)
