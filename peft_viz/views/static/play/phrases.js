// Every text of the playground: [English, Chinese].

/** @type {Record<string, [string, string]>} */
export const PHRASES = {
  title: ["A language model in this page", "网页里的语言模型"],
  lead: [
    "It reads a word and writes an answer, letter by letter. The text does not tell it what to " +
      "do with the word; a small adapter does. Switch it off, take parts of it away, and see.",
    "它读入一个单词，逐个字母写出回答。要对单词做什么，输入里并没有说：是一个小小的适配器" +
      "在起作用。关掉它，或去掉它的一部分，看看它起了什么作用。",
  ],
  loading: ["The model is loading (1 MB) …", "正在载入模型（1 MB）……"],
  failed: [
    "The model is not here: {0}. In Python, playground.html() makes a page that has it inside.",
    "找不到模型：{0}。在 Python 中，playground.html() 可以生成内含模型的网页。",
  ],
  word: ["Type a word", "输入一个单词"],
  task: ["The task that was learned", "学到的任务"],
  learned_as: ["Learned as", "学习方式"],
  prompt: ["soft prompt", "软提示"],
  prefix: ["prefix", "前缀"],
  lora: ["LoRA", "LoRA"],
  adapter: ["Adapter", "适配器"],
  on: ["on", "开"],
  off: ["off", "关"],
  padding: ["Padding on the left", "左侧填充"],
  less: ["one less", "减少一个"],
  more: ["one more", "增加一个"],
  positions: ["In the positions, padding is", "位置编号中的填充"],
  not_counted: ["not counted", "不计入"],
  counted: ["counted (wrong)", "计入（错误）"],
  layers_on: ["LoRA in layer", "启用 LoRA 的层"],
  copy: ["copy", "复制"],
  reverse: ["reverse", "反转"],
  upper: ["capitals", "大写"],
  sort: ["sort", "排序"],
  shift: ["next letter", "下一字母"],
  rotate: ["first to the end", "首字母移到末尾"],
  vowels: ["vowels", "元音大写"],
  with_prompt: ["With the soft prompt", "使用软提示"],
  with_prefix: ["With the prefix", "使用前缀"],
  with_lora: ["With LoRA", "使用 LoRA"],
  with_off: ["The adapter is off", "适配器已关闭"],
  without: ["Without", "不使用"],
  right: ["right", "正确"],
  wrong: ["should be {0}", "应为 {0}"],
  nothing: ["nothing", "空"],
  tokens: ["tokens", "词元"],
  mask: ["mask", "掩码"],
  position: ["position", "位置"],
  virtual: ["virtual token", "虚拟词元"],
  pad: ["padding", "填充"],
  token: ["letter", "字母"],
  generated: ["answer", "回答"],
  end: ["end", "结束"],
  look: ["{0}: look at it", "{0}：查看"],
  hide: ["{0}: visible. Press to mask it", "{0}：可见。按下可遮蔽"],
  show: ["{0}: masked. Press to unmask it", "{0}：已遮蔽。按下可恢复"],
  attention_of: ["Who looks at whom", "谁关注谁"],
  layer: ["layer", "层"],
  head: ["head", "头"],
  mean: ["mean", "平均"],
  rest: [
    "Each row is a token that reads; the stronger a cell's colour, the more it takes from there.",
    "每一行是一个正在读取的词元；颜色越浓，从该列取得的信息越多。",
  ],
  gives: ["{0} takes {1} % from {2}", "{0} 从 {2} 取得 {1}%"],
  hidden: ["{0} may not look at {1}: it is masked", "{0} 不能关注 {1}：它被遮蔽"],
  future: ["{0} comes before {1} and cannot see it", "{0} 在 {1} 之前，看不到它"],
  takes_most: ["{0} takes most from {1}", "{0} 主要关注 {1}"],
  comma: [", ", "、"],
  next: ["After {0}, the likeliest next token", "{0} 之后最可能的词元"],
  last: ["Nothing comes after the end.", "结束之后没有词元。"],
  not_read: [
    "A prefix is in the cache from the start: it is never read, so nothing follows it.",
    "前缀一开始就在缓存中：它不会被读取，因此没有后续词元。",
  ],
  no_such: ["Without the adapter there is no {0}.", "没有适配器时不存在 {0}。"],
  took: [
    "{0} of {1} tokens computed anew in this page, {2} ms",
    "本页重新计算了 {1} 个词元中的 {0} 个，用时 {2} 毫秒",
  ],
  parameters: ["{0} parameters, frozen", "{0} 个参数，已冻结"],
  link: ["Copy a link to this", "复制此状态的链接"],
  copied: ["Copied.", "已复制。"],
  not_copied: ["Copy the address of this page.", "请复制本页的地址。"],
  restart: ["Start again", "重新开始"],
  language: ["中文", "English"],
  theme: ["Light or dark", "浅色或深色"],
  say_prompt: [
    "Nothing in the text says what to do: the {0} learned vectors in front of it do ({1} numbers).",
    "文本里没有说要做什么，是它前面 {0} 个学到的向量（{1} 个数）说的。",
  ],
  say_prefix: [
    "Nothing in the text says what to do: {0} learned keys and values in the cache of each layer " +
      "do ({1} numbers).",
    "文本里没有说要做什么，是每一层缓存里 {0} 组学到的键和值（共 {1} 个数）说的。",
  ],
  say_lora: [
    "Nothing in the text says what to do, and nothing stands in front of it: " +
      "{0} matrices of each layer are changed a little ({1} numbers).",
    "文本里没有说要做什么，前面也没有别的：每一层有 {0} 个矩阵被略微改动（{1} 个数）。",
  ],
  say_off: [
    "The adapter is off. The model was not told the task, and it learned to answer ? then.",
    "适配器已关闭。模型不知道任务，它学过在这种情况下回答 ?。",
  ],
  say_empty: ["There is no word yet: type one.", "还没有单词：请输入一个。"],
  say_unknown: [
    "The model has no token for {0}: it reads <unk> there, and cannot write it.",
    "模型没有 {0} 对应的词元：它在那里读到的是 <unk>，也写不出它。",
  ],
  say_unlike: [
    "The model learned from words of {0} to {1} letters, a to z; this one is different.",
    "模型学习用的单词由 {0} 到 {1} 个 a 到 z 的字母组成；这个单词不一样。",
  ],
  say_full: ["No more than {0} letters fit here.", "这里最多输入 {0} 个字母。"],
  say_masked: ["No token can see {0} now: {1}.", "现在没有词元能看到 {0}：{1}。"],
  say_seen: [
    "The padding {0} can be seen now, as if it were text: {1}.",
    "填充 {0} 现在可见，被当成了文本：{1}。",
  ],
  say_layers: ["LoRA is off in layer {0}: {1}.", "LoRA 在第 {0} 层关闭：{1}。"],
  say_counted: [
    "Padding is counted: the word is {0} positions too far from the virtual tokens. {1}.",
    "填充被计入位置：单词离虚拟词元远了 {0} 个位置。{1}。",
  ],
  say_counted_lora: [
    "Padding is counted: all positions are larger by {0}, distances are the same, and rotary " +
      "positions are about distances only. {1}.",
    "填充被计入位置：所有位置都大了 {0}，距离不变，而旋转位置编码只看距离。{1}。",
  ],
  say_padded: ["The padding is masked and not counted. {0}.", "填充被遮蔽，也不计入位置。{0}。"],
  same: ["the answer stays the same", "回答不变"],
  changed: ["the answer was {0} before", "原来的回答是 {0}"],
  same_begin: ["The answer stays the same", "回答不变"],
  changed_begin: ["The answer was {0} before", "原来的回答是 {0}"],
  hint: [
    "Press a 1 in the mask to hide that token; press a token to look at it.",
    "按下掩码中的 1 可遮蔽对应的词元，按下词元可查看它。",
  ],
};

/** A phrase with its places filled. @param {0 | 1} language @param {string} name */
export function phrase(language, name, ...values) {
  return PHRASES[name][language].replace(/\{(\d)\}/g, (_, i) => String(values[i]));
}
